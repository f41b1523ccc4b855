//! Hash algorithms by their TCG identifiers (TCG Algorithm Registry 1.34,
//! table 3): the banks that a log can carry.

pub const SHA1: u16 = 0x0004;
pub const SHA256: u16 = 0x000b;
pub const SHA384: u16 = 0x000c;
pub const SHA512: u16 = 0x000d;
pub const SM3_256: u16 = 0x0012;
pub const SHA3_256: u16 = 0x0027;
pub const SHA3_384: u16 = 0x0028;
pub const SHA3_512: u16 = 0x0029;

/// The length of a SHA1 digest, fixed by the format in every Spec ID event and
/// in SHA1-format logs.
pub const SHA1_SIZE: usize = 20;

/// Identifier, digest size in bytes and the name that people and tools use.
const KNOWN: [(u16, u16, &str); 8] = [
    (SHA1, 20, "sha1"),
    (SHA256, 32, "sha256"),
    (SHA384, 48, "sha384"),
    (SHA512, 64, "sha512"),
    (SM3_256, 32, "sm3_256"),
    (SHA3_256, 32, "sha3_256"),
    (SHA3_384, 48, "sha3_384"),
    (SHA3_512, 64, "sha3_512"),
];

/// The digest size in bytes, where the algorithm is known.
pub fn size(algorithm: u16) -> Option<u16> {
    KNOWN.iter().find(|known| known.0 == algorithm).map(|known| known.1)
}

/// The bank's name as tpm2-tools and the kernel write it, or `alg_0x1234`.
pub fn name(algorithm: u16) -> String {
    match KNOWN.iter().find(|known| known.0 == algorithm) {
        Some(known) => known.2.to_owned(),
        None => format!("alg_{algorithm:#06x}"),
    }
}
