
# Prints the exit code of a job of ranks: that of the failure that came first and that no other rank caused. Each failed rank
# appended a record; records before byte FROM belong to earlier starts. Usage: exit_code DIR FROM CODE_OF_SRUN.
exit_code() {
    local records first
    records=$(tail -c "+$(($2 + 1))" "$1/failures.jsonl" 2>/dev/null)
    first=$(echo "$records" | grep -v '"by_peer":true' | by_time)
    if [ -z "$first" ]; then
        first=$(echo "$records" | by_time)
    fi
    if [ "$3" -eq 0 ]; then
        echo 0
    elif [ -n "$first" ]; then
        echo "${first##* }"
    else
        case $3 in
            1 | 2 | 3 | 4) echo "$3" ;;
            # A Rust program's exit code for a panic.
            101) echo 4 ;;
            # A program that is missing, cannot be executed, or lacks a library.
            126 | 127) echo 3 ;;
            *) echo 1 ;;
        esac
    fi
}

# Prints time and exit code of the first record.
by_time() {
    sed -n 's/^{"class":\([1-4]\),"rank":[0-9]*,"step":[^,]*,"unix_ms":\([0-9]*\),.*/\2 \1/p' | sort -n | head -n 1
}
