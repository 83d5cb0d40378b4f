//! Memory of this process.

/// Returns the peak memory of this process in GiB, or 0 if the system does not report it.
pub(super) fn peak_gib() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let kib = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB")?.trim().parse::<f64>().ok());
    kib.unwrap_or_default() / f64::from(1 << 20)
}
