#!/usr/bin/env bash
# Trains on the 16 photographs of this folder, then asks about three of them. Fails where an answer is wrong.
#
#   examples/photos/demo.sh [FOLDER]      runs are kept in FOLDER, by default nemo_experiments
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

runs=${1:-nemo_experiments}
neva_run=${CARGO_TARGET_DIR:-target}/release/neva-run
question="What is in the picture?"

if [[ ! -x $neva_run ]]; then
  echo "demo: there is no $neva_run: run 'make build' first" >&2
  exit 1
fi

echo "Training on two ranks ..."
"$neva_run" examples/photos/recipe.yaml --set dir="$runs"

# A run's folder is named by its date, so the newest is the last.
folders=("$runs"/photos/*/)
run=${folders[-1]%/}

wrong=0
ask() { # PICTURE ANSWER
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
echo "  logs/          what each rank said"
echo "  curves.svg     loss, learning rate and gradient norm as a picture"
echo "  metrics.jsonl  loss, learning rate and speed of each step"
echo "  tb_logs/       the same for TensorBoard"
echo "  checkpoints/   what generate has just read"

# Shown where there is a screen to show it on.
if [[ -t 1 && -n ${DISPLAY:-}${WAYLAND_DISPLAY:-} ]] && command -v xdg-open >/dev/null; then
  xdg-open "$run/curves.svg" >/dev/null 2>&1 &
else
  echo
  echo "The picture of the curves: $run/curves.svg"
fi
exit "$wrong"
