//! Live registers: what the hardware holds, and extending one.
//!
//! A TDX guest shows its registers as files (tsm-mr ABI, Linux 6.16): 48 raw bytes
//! to read, and writing 48 to RTMR3 extends it. A TPM's PCRs are shown in sysfs as
//! hexadecimal text (Linux 5.12), and are extended by a command to the kernel's
//! resource manager, which any number of processes may use at once.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use crate::error::{Error, Result};
use crate::log::{algorithm, Digest};

/// The banks of a container log. Others that a TPM may have are left as they are.
pub const BANKS: [(u16, u16); 2] = [(algorithm::SHA256, 32), (algorithm::SHA384, 48)];

/// A register's value, bank by bank, in the order of [`BANKS`].
pub type Values = Vec<(u16, Vec<u8>)>;

/// RTMR3 in the terms of a CCEL, where MRTD is 0 and RTMR0 is 1.
pub const RTMR3_INDEX: u32 = 4;
const RTMR_SIZE: usize = 48;

/// TPM 2.0 Library part 2: TPM_ST_SESSIONS (§6.9), TPM_CC_PCR_Extend (§6.5.2),
/// TPM_RS_PW (§7.4).
const ST_SESSIONS: u16 = 0x8002;
const CC_PCR_EXTEND: u32 = 0x0000_0182;
const RS_PW: u32 = 0x4000_0009;
/// What a TPM answers that would do it another time (part 2 §6.6.3): TPM_RC_YIELDED,
/// TPM_RC_TESTING, TPM_RC_RETRY.
const LATER: [u32; 3] = [0x908, 0x90a, 0x922];
const ATTEMPTS: u32 = 6;
const FIRST_PAUSE: Duration = Duration::from_millis(10);

/// The register that a log is extended into. The paths are fields for tests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Register {
    /// The last runtime register of a TDX guest, which others extend too.
    Rtmr3 { file: PathBuf },
    Pcr {
        number: u32,
        /// Takes commands.
        device: PathBuf,
        /// Has a folder for each bank.
        banks: PathBuf,
    },
}

impl Register {
    pub fn rtmr3() -> Register {
        let file = "/sys/devices/virtual/misc/tdx_guest/measurements/rtmr3:sha384";
        Register::Rtmr3 { file: file.into() }
    }

    pub fn pcr(number: u32) -> Register {
        Register::Pcr { number, device: "/dev/tpmrm0".into(), banks: "/sys/class/tpm/tpm0".into() }
    }

    /// `RTMR3`, `PCR13`.
    pub fn name(&self) -> String {
        match self {
            Register::Rtmr3 { .. } => "RTMR3".to_owned(),
            Register::Pcr { number, .. } => format!("PCR{number}"),
        }
    }

    /// The index of its events in a log.
    pub fn index(&self) -> u32 {
        match self {
            Register::Rtmr3 { .. } => RTMR3_INDEX,
            Register::Pcr { number, .. } => *number,
        }
    }

    /// What the register holds in those of [`BANKS`] that it has.
    pub fn read(&self) -> Result<Values> {
        match self {
            Register::Rtmr3 { file } => {
                let value = self.read_file(file, RTMR_SIZE)?;
                self.checked(file, algorithm::SHA384, Some(value)).map(|value| vec![value])
            }
            Register::Pcr { banks, .. } => {
                let mut values = Values::new();
                for (bank, size) in BANKS {
                    let Some(path) = self.bank_file(bank) else { continue };
                    let longest = usize::from(size).saturating_mul(2).saturating_add(1);
                    let text = self.read_file(&path, longest)?;
                    values.push(self.checked(&path, bank, from_hex(text.trim_ascii_end()))?);
                }
                match values.is_empty() {
                    true => Err(self.failed(banks, io::ErrorKind::NotFound.into())),
                    false => Ok(values),
                }
            }
        }
    }

    /// Extends the register by the digests of one event, all its banks at once. What
    /// the register has no bank for is left out.
    pub fn extend(&self, digests: &[Digest<'_>]) -> Result<()> {
        match self {
            Register::Rtmr3 { file } => {
                let digest = digests.iter().find(|digest| digest.algorithm == algorithm::SHA384);
                let digest = digest.map(|digest| digest.bytes).unwrap_or_default();
                let write = || OpenOptions::new().write(true).open(file)?.write_all(digest);
                write().map_err(|source| self.failed(file, source))
            }
            Register::Pcr { number, device, .. } => {
                // Of a bank that the TPM knows and has no PCRs in, the digest is not
                // used; of an algorithm that it does not know, the whole command is
                // refused (part 3 §22.2.1).
                let there = |digest: &&Digest<'_>| self.bank_file(digest.algorithm).is_some();
                let digests: Vec<_> = digests.iter().filter(there).copied().collect();
                self.command(device, &extend_command(*number, &digests))
            }
        }
    }

    /// Sends a command until the TPM has the time for it.
    fn command(&self, device: &Path, command: &[u8]) -> Result<()> {
        let mut pause = FIRST_PAUSE;
        let mut attempt = 1;
        loop {
            let response =
                exchange(device, command).map_err(|source| self.failed(device, source))?;
            let code = response_code(&response).ok_or_else(|| self.nonsense(device))?;
            match code {
                0 => return Ok(()),
                _ if LATER.contains(&code) && attempt < ATTEMPTS => thread::sleep(pause),
                _ => return Err(Error::Tpm { register: self.name(), code }),
            }
            attempt = attempt.saturating_add(1);
            pause = pause.saturating_mul(2);
        }
    }

    /// The file of a PCR's bank. The kernel shows those banks that have PCRs.
    fn bank_file(&self, bank: u16) -> Option<PathBuf> {
        let Register::Pcr { number, banks, .. } = self else { return None };
        let file = banks.join(format!("pcr-{}", algorithm::name(bank))).join(number.to_string());
        file.exists().then_some(file)
    }

    fn read_file(&self, path: &Path, longest: usize) -> Result<Vec<u8>> {
        let limit = u64::try_from(longest).unwrap_or(u64::MAX).saturating_add(1);
        let mut bytes = Vec::new();
        let read = File::open(path).and_then(|file| file.take(limit).read_to_end(&mut bytes));
        read.map_err(|source| self.failed(path, source))?;
        Ok(bytes)
    }

    fn checked(&self, path: &Path, bank: u16, value: Option<Vec<u8>>) -> Result<(u16, Vec<u8>)> {
        let size = algorithm::size(bank).map(usize::from);
        let whole = value.filter(|value| Some(value.len()) == size);
        whole.map(|value| (bank, value)).ok_or_else(|| self.nonsense(path))
    }

    fn failed(&self, path: &Path, source: io::Error) -> Error {
        Error::Register { register: self.name(), path: path.to_owned(), source }
    }

    fn nonsense(&self, path: &Path) -> Error {
        let said = io::Error::new(io::ErrorKind::InvalidData, "this is no register's answer");
        self.failed(path, said)
    }
}

/// TPM2_PCR_Extend (part 3 §22.2) under an empty password, which is what every PCR
/// of a PC Client TPM has. Everything to a TPM is big-endian.
fn extend_command(pcr: u32, digests: &[Digest<'_>]) -> Vec<u8> {
    const HEADER_SIZE: usize = 10;
    let mut session = RS_PW.to_be_bytes().to_vec();
    // Nonce, attributes, password: nothing of each.
    session.extend([0, 0, 0, 0, 0]);
    let mut body = pcr.to_be_bytes().to_vec();
    body.extend(length(&session).to_be_bytes());
    body.extend(session);
    body.extend(length(digests).to_be_bytes());
    for digest in digests {
        body.extend(digest.algorithm.to_be_bytes());
        body.extend(digest.bytes);
    }
    let mut command = ST_SESSIONS.to_be_bytes().to_vec();
    let size = u32::try_from(HEADER_SIZE.saturating_add(body.len())).unwrap_or(u32::MAX);
    command.extend(size.to_be_bytes());
    command.extend(CC_PCR_EXTEND.to_be_bytes());
    command.extend(body);
    command
}

/// The length of something short.
fn length<T>(items: &[T]) -> u32 {
    u32::try_from(items.len()).unwrap_or(u32::MAX)
}

/// One command and its response: the device wants each whole in one call.
fn exchange(device: &Path, command: &[u8]) -> io::Result<Vec<u8>> {
    let mut device = OpenOptions::new().read(true).write(true).open(device)?;
    device.write_all(command)?;
    let mut response = [0; 4096];
    let length = device.read(&mut response)?;
    Ok(response.get(..length).unwrap_or_default().to_vec())
}

/// After tag and size (part 3 §4.4).
fn response_code(response: &[u8]) -> Option<u32> {
    response.get(6..10)?.try_into().ok().map(u32::from_be_bytes)
}

/// Bytes from hexadecimal text of either case.
pub fn from_hex(text: &[u8]) -> Option<Vec<u8>> {
    let digit = |digit: u8| char::from(digit).to_digit(16).and_then(|d| u8::try_from(d).ok());
    let byte = |pair: &[u8]| match pair {
        [high, low] => Some(digit(*high)? << 4 | digit(*low)?),
        _ => None,
    };
    text.chunks(2).map(byte).collect()
}
