packed() { # FOLDER: prints the hash of its code
    cat "$1/code/.neva-code" 2>/dev/null
}
copy_code() { # FROM TO: links, since copies of many files take long, where the file system has links
    rm -rf "$2.part" && { cp -al "$1" "$2.part" 2>/dev/null || { rm -rf "$2.part" && cp -a "$1" "$2.part"; }; } &&
        rm -rf "$2" && mv "$2.part" "$2"
}
# A task that starts again keeps its code, but not that of an earlier submission.
if [ -L "$root/code" ] || { [ -e "$root/code" ] && { [ ! -e "$dir/code" ] || [ "$(packed "$root")" != "$(packed "$dir")" ]; }; }; then
    copy_code "$root/code" "$dir/code" || fail 3 "cannot copy $root/code to $dir"
fi
