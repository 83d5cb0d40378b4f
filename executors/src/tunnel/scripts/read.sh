# Arguments: file, number of the first byte from 1, number of bytes.
[ -e "$1" ] || exit 44
if [ ! -r "$1" ]; then echo 'Permission denied' >&2; exit 74; fi
if [ -d "$1" ]; then echo 'Is a directory' >&2; exit 74; fi
tail -c "+$2" "$1" | head -c "$3"
