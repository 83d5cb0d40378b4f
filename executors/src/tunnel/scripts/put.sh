# Arguments: file, temporary file, hash, mode, offset, length of the file. Appends its input to the temporary file, and
# completes the file with its last chunk. Prints done, same if the file has this hash, wrong for another hash, or the
# number of bytes.
folder=${1%/*}
[ -z "$folder" ] || mkdir -p "$folder" || exit 74
if [ -d "$1" ]; then echo 'Is a directory' >&2; exit 74; fi
if [ "$5" = 0 ]; then
  if [ -f "$1" ] && same "$1" "$3"; then cat >/dev/null; chmod "$4" "$1"; echo same; exit 0; fi
  : >"$2" || exit 74
fi
have=$(wc -c <"$2") || exit 74
if [ "$have" -eq "$5" ]; then
  cat >>"$2" || exit 74
  have=$(wc -c <"$2") || exit 74
fi
if [ "$have" -ne "$6" ]; then echo $((have)); exit 0; fi
sum=$(hash "$2")
if [ -n "$sum" ] && [ "${sum%% *}" != "$3" ]; then rm -f "$2"; echo wrong; exit 0; fi
chmod "$4" "$2" && mv -f "$2" "$1" || exit 74
echo done
