"""Convert a checkpoint to .safetensors: container, precision and quantization change, names never do."""

from LTX_2_MLX.cli.convert_weights import main

if __name__ == "__main__":
    main()
