"""What the build wrote down about the torch it was made with."""

TORCH_VERSION: str
TORCH_CUDA: str | None
