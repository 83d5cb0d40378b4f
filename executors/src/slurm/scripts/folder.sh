# Creates a new folder exclusively: `folder PATH`. If PATH exists, PATH-1, PATH-2 and so on. Prints its absolute path.
first=$1
case $first in
  */*) mkdir -p "${first%/*}" || exit 1 ;;
esac
n=0 path=$first
while ! message=$(mkdir "$path" 2>&1); do
  if [ ! -e "$path" ] || [ "$n" -ge 1000 ]; then
    printf '%s\n' "$message" >&2
    exit 1
  fi
  n=$((n + 1))
  path=$first-$n
done
cd "$path" && pwd
