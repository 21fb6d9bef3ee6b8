"""What the commands share: option types, errors to a line and an exit code, progress, the closing report."""

# A script says cli.Output as it says cli.report.
from LTX_2_MLX.cli.command import *  # noqa: F403
from LTX_2_MLX.cli.options import *  # noqa: F403
from LTX_2_MLX.pipelines.options import precision as precision
