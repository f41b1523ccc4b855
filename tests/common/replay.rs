//! Events → register values, in the fewest words: what the parser's digests must
//! add up to on the machines that the corpus was taken from.

use std::collections::BTreeMap;

use ccnp_eventlog::log::{algorithm, event_type, Event, Log, Registers};
use sha2::{Digest, Sha256, Sha384, Sha512};

/// The registers of one bank after all events; `None` where the bank's hash
/// function is not at hand.
pub fn replay<B: AsRef<[u8]>>(
    log: &Log<B>,
    registers: Registers,
    bank: u16,
) -> Option<BTreeMap<u32, Vec<u8>>> {
    let size = usize::from(algorithm::size(bank)?);
    hash(bank, &[])?;
    let mut values = BTreeMap::new();
    for event in log.events().filter(Event::is_extended) {
        let Some(digest) = event.digests().find(|digest| digest.algorithm == bank) else {
            continue;
        };
        let value = values
            .entry(registers.number(event.index))
            .or_insert_with(|| start_value(log, registers, event.index, size));
        *value = hash(bank, &[value.as_slice(), digest.bytes].concat())?;
    }
    Some(values)
}

/// PCR0 starts at the locality of TPM2_Startup, or at 4 after an H-CRTM sequence;
/// every other register starts at zero.
fn start_value<B: AsRef<[u8]>>(
    log: &Log<B>,
    registers: Registers,
    index: u32,
    size: usize,
) -> Vec<u8> {
    let mut value = vec![0; size];
    if registers == Registers::Pcr && index == 0 {
        for event in log.events() {
            let locality = event.data.strip_prefix(b"StartupLocality\0");
            if let (event_type::EV_NO_ACTION, Some([locality, ..])) = (event.event_type, locality) {
                value[size - 1] = *locality;
            } else if event.event_type == event_type::EV_EFI_HCRTM_EVENT {
                value[size - 1] = 4;
            }
        }
    }
    value
}

pub fn hash(bank: u16, bytes: &[u8]) -> Option<Vec<u8>> {
    Some(match bank {
        algorithm::SHA1 => sha1::Sha1::digest(bytes).to_vec(),
        algorithm::SHA256 => Sha256::digest(bytes).to_vec(),
        algorithm::SHA384 => Sha384::digest(bytes).to_vec(),
        algorithm::SHA512 => Sha512::digest(bytes).to_vec(),
        _ => return None,
    })
}
