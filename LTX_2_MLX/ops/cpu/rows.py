"""Runs of rows that are computed apart and rounded as all rows together, on the CPU."""

from collections.abc import Collection

from LTX_2_MLX.ops.cpu.numpy_forms import FEW_VALUES

# OpenBLAS has another kernel for products of up to so many values by a transposed matrix, as linear layers and the
# scores of attention have them, which rounds differently.
# Source: OpenMathLib/OpenBLAS, kernel/x86_64/sgemm_small_kernel_permit_skylakex.c at 7d3ecc9.
_SMALL_PRODUCT = 1200
# Its kernels take rows in twelves without AVX-512 and in fours with it, and what is left of them in another way;
# otherwise a row does not depend on the others.
BLOCK = 12


def fewest_rows(num_rows: int, products: Collection[int], activations: Collection[int]) -> int:
    """Rows that a run must have at least for its operations to take the forms that they take for all rows.

    Args:
        num_rows: All rows.
        products: Values of a row of each matrix product.
        activations: Values of a row of each activation.
    """
    fewest = 1
    for width in products:
        if num_rows * width > _SMALL_PRODUCT:
            fewest = max(fewest, _SMALL_PRODUCT // width + 1)
    for width in activations:
        if num_rows * width >= FEW_VALUES:
            fewest = max(fewest, -(-FEW_VALUES // width))
    return fewest
