//! Configuration of NCCL communicators.

use cudarc::nccl::sys::ncclConfig_t;
use std::ffi::c_int;

/// Returns NCCL's `NCCL_CONFIG_INITIALIZER` for non-blocking communicators.
pub(super) fn config() -> ncclConfig_t {
    const UNDEFINED: c_int = c_int::MIN;
    ncclConfig_t {
        size: size_of::<ncclConfig_t>(),
        magic: 0xcafe_beef,
        // Version of the header that declares these fields.
        version: 22_803,
        blocking: 0,
        cgaClusterSize: UNDEFINED,
        minCTAs: UNDEFINED,
        maxCTAs: UNDEFINED,
        netName: std::ptr::null(),
        splitShare: UNDEFINED,
        trafficClass: UNDEFINED,
        commName: std::ptr::null(),
        collnetEnable: UNDEFINED,
        CTAPolicy: UNDEFINED,
        shrinkShare: UNDEFINED,
        nvlsCTAs: UNDEFINED,
        nChannelsPerNetPeer: UNDEFINED,
        nvlinkCentricSched: UNDEFINED,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn config_has_the_size_and_magic_of_its_version() {
        let config = config();
        // NCCL 2.28's `ncclConfig_t` on a machine of 64 bits.
        assert_eq!((config.size, config.magic, config.blocking), (80, 0xcafe_beef, 0));
        assert_eq!((config.nvlinkCentricSched, config.netName.is_null()), (c_int::MIN, true));
    }
}
