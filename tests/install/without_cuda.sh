#!/usr/bin/env bash
# without_cuda.sh command...: runs it in a mount namespace in which no CUDA toolkit exists.
set -euo pipefail
if [[ ${1:-} != --inside ]]; then
  namespace=(unshare --mount)
  "${namespace[@]}" true 2> /dev/null || namespace=(unshare --mount --map-root-user)
  exec "${namespace[@]}" "$BASH" "$0" --inside "$@"
fi
shift
for nvcc in $(type -ap nvcc) /usr/local/cuda/bin/nvcc ${CUDA_HOME:+"$CUDA_HOME/bin/nvcc"}; do
  [[ -x $nvcc ]] || continue   # hidden by an earlier turn
  toolkit=$(dirname "$(dirname "$(readlink -f "$nvcc")")")
  if [[ -e $toolkit/nvvm ]]; then
    mount -t tmpfs none "$toolkit"
  else
    mount --bind /dev/null "$nvcc"   # a wrapper script
  fi
done
unset CUDA_HOME CUDA_PATH CUDACXX
exec "$@"
