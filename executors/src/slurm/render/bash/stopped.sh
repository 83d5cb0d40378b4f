
# Returns true if the ranks in DIR saved and stopped on SIGNAL: stopped_on DIR SIGNAL.
stopped_on() {
    grep -q "\"stopped\": *\"$2\"" "$1/report.json" 2>/dev/null
}
