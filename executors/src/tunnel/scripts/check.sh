# Reads lines HASH MODE PATH, and prints the numbers of those whose file differs.
n=0
while IFS=' ' read -r want mode path; do
  if [ -f "$path" ] && same "$path" "$want"; then chmod "$mode" "$path"; else echo $n; fi
  n=$((n + 1))
done
