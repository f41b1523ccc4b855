//! Events → bytes: the crypto-agile dialect, as PFP 1.06 §10.2 lays it out.

use super::event::SPEC_ID_SIGNATURE;
use super::event_type::EV_NO_ACTION;
use super::{algorithm, Digest};

/// An event's data or vendor information too long for its 32-bit or 8-bit size
/// field, or more digests than the format counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooLong;

/// Appends the Spec ID header of a log with the given banks: version 2.0, errata
/// 105, 64-bit UINTN. `index` is 0 in a TPM log; TDVF writes 1 in a CCEL.
pub fn write_spec_id(
    log: &mut Vec<u8>,
    index: u32,
    algorithms: &[(u16, u16)],
    vendor_info: &[u8],
) -> Result<(), TooLong> {
    let mut data = Vec::new();
    data.extend(SPEC_ID_SIGNATURE);
    data.extend(0u32.to_le_bytes());
    data.extend([0, 2, 105, 2]);
    data.extend(u32::try_from(algorithms.len()).map_err(|_| TooLong)?.to_le_bytes());
    for (algorithm, size) in algorithms {
        data.extend(algorithm.to_le_bytes());
        data.extend(size.to_le_bytes());
    }
    data.push(u8::try_from(vendor_info.len()).map_err(|_| TooLong)?);
    data.extend(vendor_info);

    log.extend(index.to_le_bytes());
    log.extend(EV_NO_ACTION.to_le_bytes());
    log.extend([0; algorithm::SHA1_SIZE]);
    write_sized(log, &data)
}

/// Appends one event. The digests must be as long as the header declares.
pub fn write_event(
    log: &mut Vec<u8>,
    index: u32,
    event_type: u32,
    digests: &[Digest<'_>],
    data: &[u8],
) -> Result<(), TooLong> {
    let count = u32::try_from(digests.len()).map_err(|_| TooLong)?;
    u32::try_from(data.len()).map_err(|_| TooLong)?;
    log.extend(index.to_le_bytes());
    log.extend(event_type.to_le_bytes());
    log.extend(count.to_le_bytes());
    for digest in digests {
        log.extend(digest.algorithm.to_le_bytes());
        log.extend(digest.bytes);
    }
    write_sized(log, data)
}

fn write_sized(log: &mut Vec<u8>, data: &[u8]) -> Result<(), TooLong> {
    log.extend(u32::try_from(data.len()).map_err(|_| TooLong)?.to_le_bytes());
    log.extend(data);
    Ok(())
}
