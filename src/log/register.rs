//! The measurement registers that an event's index stands for.
//!
//! A TPM log's index is a PCR number. A CCEL's is an MR index: 0 is MRTD, which
//! only the TDX module writes, and 1 to 4 are RTMR0 to RTMR3 (Intel TDX Virtual
//! Firmware Design Guide §8.1.2, UEFI 2.10 §38.4.1).

/// Which registers a log's indexes count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Registers {
    Rtmr,
    Pcr,
}

/// PCRs of a PC Client TPM: 0 to 23 (PFP §3.3.4).
const LAST_PCR: u32 = 23;
/// RTMR3, the last MR index of a TDX guest.
const LAST_MR_INDEX: u32 = 4;

/// Windows ends its logs with an EV_NO_ACTION of this index; it belongs to no
/// register.
pub const NO_REGISTER: u32 = u32::MAX;

impl Registers {
    /// The register's number as CCNP's clients read it: the MR index less one
    /// (so that MRTD, index 0, is 4294967295), or the PCR itself.
    pub fn number(self, index: u32) -> u32 {
        match self {
            Registers::Rtmr => index.wrapping_sub(1),
            Registers::Pcr => index,
        }
    }

    /// The register's name for people: `RTMR0`, `MRTD`, `PCR7`. An index outside
    /// the machine's registers keeps its number, one of no register is `-`.
    pub fn name(self, index: u32) -> String {
        match (self, index) {
            (_, NO_REGISTER) => "-".to_owned(),
            (Registers::Rtmr, 0) => "MRTD".to_owned(),
            (Registers::Rtmr, 1..=LAST_MR_INDEX) => format!("RTMR{}", self.number(index)),
            (Registers::Rtmr, _) => format!("MR{index}"),
            (Registers::Pcr, _) => format!("PCR{index}"),
        }
    }

    /// Whether a machine has a register of this index.
    pub fn exist(self, index: u32) -> bool {
        match self {
            Registers::Rtmr => index <= LAST_MR_INDEX,
            Registers::Pcr => index <= LAST_PCR,
        }
    }
}
