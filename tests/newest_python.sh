#!/usr/bin/env bash
# The newest supported Python of this machine, which gets the newest jax; pyenv's, too, if no shim names one.
set -euo pipefail
for version in 3.13 3.12 3.11; do
    for python in "python$version" "${PYENV_ROOT:-$HOME/.pyenv}/versions/$version".*/bin/python; do
        if "$python" -c "import venv" 2>/dev/null; then
            command -v "$python"
            exit
        fi
    done
done
echo "no Python from 3.11 to 3.13 found" >&2
exit 1
