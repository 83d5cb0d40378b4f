# Reads parts of many files in one call. Each line of the input is `FROM LIMIT PATH`: at most LIMIT bytes from byte FROM on;
# FROM `end`: the last LIMIT bytes; FROM `each`: the beginning of each PATH/*/checkpoint.json. For a file that exists,
# `LINE SIZE NAME` is printed, then SIZE bytes and a line end; LINE counts from 1, NAME is given for `each`.
line=0
emit() { # FROM LIMIT PATH NAME
  [ -f "$3" ] || return 0
  size=$(wc -c <"$3") || return 0
  size=$((size))
  if [ "$1" = end ]; then
    from=$((size > $2 ? size - $2 : 0))
  else
    from=$1
  fi
  take=$((size - from))
  [ "$take" -le "$2" ] || take=$2
  [ "$take" -ge 0 ] || take=0
  printf '%s %s %s\n' "$line" "$take" "$4"
  if [ "$take" = 0 ]; then
    :
  elif [ "$from" = 0 ]; then
    head -c "$take" "$3"
  else
    tail -c "+$((from + 1))" "$3" | head -c "$take"
  fi
  echo
}
while IFS=' ' read -r from limit path; do
  line=$((line + 1))
  if [ "$from" = each ]; then
    for file in "$path"/*/checkpoint.json; do
      name=${file%/checkpoint.json}
      emit 0 "$limit" "$file" "${name##*/}"
    done
  else
    emit "$from" "$limit" "$path" -
  fi
done
