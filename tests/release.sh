#!/usr/bin/env bash
# tests/release.sh PYTHON DIST: install the wheel and the sdist of DIST where there is no checkout, and use
# them as a reader of README would. Arguments after DIST are the parts of the validation to run.
set -euo pipefail
python="$1"
dist="$(cd "$2" && pwd)"
shift 2

place="$(mktemp -d)"
trap 'rm -rf "$place"' EXIT
cd "$place"
unset PYTHONPATH
export OPENBLAS_NUM_THREADS="${OPENBLAS_NUM_THREADS:-1}"

"$python" -m venv environment
environment/bin/python -m pip install --quiet --disable-pip-version-check "$dist"/*.whl plotly
PATH="$place/environment/bin:$PATH"
python -c "import sharpflow; assert '$place' in sharpflow.__file__, sharpflow.__file__"
python -c "import sys, jax; print('Python', sys.version.split()[0], 'jax', jax.__version__)"

sharpflow --version
test "$(python -m sharpflow --version)" = "$(sharpflow --version)"
_SHARPFLOW_COMPLETE=complete_bash COMP_WORDS="sharpflow re" COMP_CWORD=1 sharpflow | grep -qx report
_SHARPFLOW_COMPLETE=source_zsh sharpflow | grep -q compdef

sharpflow list
sharpflow demo --quick --out demo
sharpflow run linear-regression-small --set snapshot_every=10 --out run --no-progress
sharpflow plot run
sharpflow validate "${@:-oscillation}" --out validate
for folder in demo run validate; do
    sharpflow report "$folder"
    test -s "$folder/report.html"
done

python -m pip install --quiet --disable-pip-version-check --no-deps --force-reinstall "$dist"/*.tar.gz
sharpflow --version
echo "wheel and sdist work in $(basename "$place")"
