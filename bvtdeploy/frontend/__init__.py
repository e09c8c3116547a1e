"""Front ends: from what the user has to a graph of source ops.

`import_model` takes checkpoints, exported programs and live modules.
"""

from bvtdeploy.frontend.torch_export import Imported, import_model

__all__ = ["Imported", "import_model"]
