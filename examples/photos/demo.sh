#!/usr/bin/env bash
# Checks the 16 photographs of this folder and their texts, trains on them, then asks about three of them. Fails if an
# answer is wrong.
#
#   examples/photos/demo.sh [FOLDER]      FOLDER of runs, by default nemo_experiments
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

runs=${1:-nemo_experiments}
neva_run=${CARGO_TARGET_DIR:-target}/release/neva-run
question="What is in the picture?"

if [[ ! -x $neva_run ]]; then
  echo "demo: $neva_run does not exist: run 'make build' first" >&2
  exit 1
fi

echo "Checking the data ..."
"$neva_run" data check examples/photos/recipe.yaml

echo
echo "Training on two ranks ..."
"$neva_run" examples/photos/recipe.yaml --set dir="$runs"

# A run's folder is named by its date, so the newest is the last.
folders=("$runs"/photos/*/)
run=${folders[-1]%/}

wrong=0
ask() { # IMAGE ANSWER
  local answer
  answer=$("$neva_run" generate --checkpoint "$run" --image "examples/photos/$1" --prompt "$question")
  echo "  $1: $answer"
  if [[ $answer != "$2" ]]; then
    echo "    it should be: $2"
    wrong=1
  fi
}

echo
echo "$question"
ask astronaut.jpg "An astronaut in an orange suit."
ask chelsea.jpg "A tabby cat."
ask coffee.jpg "A cup of coffee on a saucer."

echo
echo "The run is in $run:"
echo "  logs/          output of each rank"
echo "  curves.svg     plots of loss, learning rate and gradient norm"
echo "  metrics.jsonl  loss, learning rate and speed of each step"
echo "  tb_logs/       the same for TensorBoard"
echo "  checkpoints/   checkpoints, used by generate above"

# Opened if there is a graphical screen.
if [[ -t 1 && -n ${DISPLAY:-}${WAYLAND_DISPLAY:-} ]] && command -v xdg-open >/dev/null; then
  xdg-open "$run/curves.svg" >/dev/null 2>&1 &
else
  echo
  echo "Plots of the curves: $run/curves.svg"
fi
exit "$wrong"
