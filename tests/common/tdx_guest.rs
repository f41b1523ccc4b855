//! A CCEL in the shape that TDVF leaves in a TDX guest: SHA384 alone, a header of
//! index 1, 64 KiB of log area filled up with 0xff. The events and their order are
//! those of OVMF, shim and GRUB; names and values are invented.

use ccnp_eventlog::log::event_type::*;
use ccnp_eventlog::log::write::{write_event, write_spec_id};
use ccnp_eventlog::log::{algorithm, Digest};

use super::replay::hash;

const LOG_AREA: usize = 64 << 10;

/// MR indexes: RTMR0 is 1.
const RTMR0: u32 = 1;
const RTMR1: u32 = 2;
const RTMR2: u32 = 3;

const EV_PLATFORM_CONFIG_FLAGS: u32 = 0x0000_000a;
const GLOBAL_VARIABLE: [u8; 16] =
    guid(0x8be4df61, 0x93ca, 0x11d2, *b"\xaa\x0d\x00\xe0\x98\x03\x2b\x8c");
const IMAGE_SECURITY: [u8; 16] =
    guid(0xd719b2cb, 0x3d3a, 0x4596, *b"\xa3\xbc\xda\xd0\x0e\x67\x65\x6f");
const TABLE: [u8; 16] = guid(0x1f8e6f30, 0x52c4, 0x4d0a, *b"\x9b\x7e\x30\x61\x5a\x0c\x88\x21");

pub fn log() -> Vec<u8> {
    let mut log = Vec::new();
    write_spec_id(&mut log, 1, &[(algorithm::SHA384, 48)], b"").unwrap();
    let mut event = |index, event_type, data: &[u8]| {
        let digest = hash(algorithm::SHA384, data).unwrap();
        let digests = [Digest { algorithm: algorithm::SHA384, bytes: &digest }];
        write_event(&mut log, index, event_type, &digests, data).unwrap();
    };
    event(RTMR0, EV_EFI_HANDOFF_TABLES2, &described("TdxTable", &[&le(1), &TABLE, &le(0x80c000)]));
    event(
        RTMR0,
        EV_EFI_PLATFORM_FIRMWARE_BLOB2,
        &described("Fv(Configuration)", &[&le(0xffc84000), &le(0x3c000)]),
    );
    event(RTMR0, EV_EFI_VARIABLE_DRIVER_CONFIG, &variable(&GLOBAL_VARIABLE, "SecureBoot", &[1]));
    for (vendor, name, size) in [
        (&GLOBAL_VARIABLE, "PK", 800),
        (&GLOBAL_VARIABLE, "KEK", 1560),
        (&IMAGE_SECURITY, "db", 3143),
        (&IMAGE_SECURITY, "dbx", 76),
    ] {
        event(RTMR0, EV_EFI_VARIABLE_DRIVER_CONFIG, &variable(vendor, name, &vec![0x5a; size]));
    }
    event(RTMR0, EV_SEPARATOR, &[0; 4]);
    for _ in ["etc/table-loader", "etc/acpi/rsdp", "etc/acpi/tables"] {
        event(RTMR0, EV_PLATFORM_CONFIG_FLAGS, b"ACPI DATA");
    }
    event(RTMR0, EV_EFI_VARIABLE_BOOT, &variable(&GLOBAL_VARIABLE, "BootOrder", &[1, 0, 0, 0]));
    let boot = [&le32(1)[..], &[0x26, 0], &utf16("Debian"), &[0, 0]].concat();
    event(RTMR0, EV_EFI_VARIABLE_BOOT, &variable(&GLOBAL_VARIABLE, "Boot0001", &boot));
    event(RTMR1, EV_EFI_ACTION, b"Calling EFI Application from Boot Option");
    event(RTMR1, EV_SEPARATOR, &[0; 4]);
    event(RTMR1, EV_EFI_GPT_EVENT, &partitions(&["EFI System", "root"]));
    event(RTMR1, EV_EFI_BOOT_SERVICES_APPLICATION, &image("\\EFI\\debian\\shimx64.efi", 962_136));
    event(RTMR0, EV_EFI_VARIABLE_AUTHORITY, &variable(&IMAGE_SECURITY, "db", &[0x5a; 1556]));
    event(RTMR1, EV_EFI_BOOT_SERVICES_APPLICATION, &image("\\EFI\\debian\\grubx64.efi", 2_656_912));
    for line in [
        "grub_cmd: search --no-floppy --set=root --label cloudimg-rootfs",
        "grub_cmd: linux /vmlinuz root=LABEL=cloudimg-rootfs ro console=ttyS0",
        "kernel_cmdline: /vmlinuz root=LABEL=cloudimg-rootfs ro console=ttyS0",
        "grub_cmd: initrd /initrd.img",
    ] {
        event(RTMR2, EV_IPL, &[line.as_bytes(), &[0]].concat());
    }
    let command_line = [utf16("root=LABEL=cloudimg-rootfs ro console=ttyS0"), vec![0, 0]].concat();
    let size = le32(u32::try_from(command_line.len()).unwrap());
    event(RTMR2, EV_EVENT_TAG, &[&le32(0x8f3b_22ed)[..], &size, &command_line].concat());
    event(RTMR1, EV_EFI_ACTION, b"Exit Boot Services Invocation");
    event(RTMR1, EV_EFI_ACTION, b"Exit Boot Services Returned with Success");
    log.resize(LOG_AREA, 0xff);
    log
}

const fn guid(first: u32, second: u16, third: u16, rest: [u8; 8]) -> [u8; 16] {
    let ([a, b, c, d], [e, f], [g, h]) =
        (first.to_le_bytes(), second.to_le_bytes(), third.to_le_bytes());
    let [i, j, k, l, m, n, o, p] = rest;
    [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p]
}

fn le(value: u64) -> [u8; 8] {
    value.to_le_bytes()
}

fn le32(value: u32) -> [u8; 4] {
    value.to_le_bytes()
}

fn utf16(text: &str) -> Vec<u8> {
    text.encode_utf16().flat_map(u16::to_le_bytes).collect()
}

fn described(description: &str, fields: &[&[u8]]) -> Vec<u8> {
    [&[u8::try_from(description.len()).unwrap()], description.as_bytes(), &fields.concat()].concat()
}

fn variable(vendor: &[u8; 16], name: &str, value: &[u8]) -> Vec<u8> {
    let lengths = [le(name.len() as u64), le(value.len() as u64)].concat();
    [&vendor[..], &lengths, &utf16(name), value].concat()
}

fn partitions(names: &[&str]) -> Vec<u8> {
    let mut header = vec![0; 92];
    header[..8].copy_from_slice(b"EFI PART");
    header[84..88].copy_from_slice(&le32(128));
    let entry = |name: &&str| {
        let mut entry = vec![0; 128];
        entry[56..56 + 2 * name.len()].copy_from_slice(&utf16(name));
        entry
    };
    [header, le(names.len() as u64).to_vec(), names.iter().flat_map(entry).collect()].concat()
}

fn image(file: &str, size: u64) -> Vec<u8> {
    let file = [utf16(file), vec![0, 0]].concat();
    let node = [&[4, 4][..], &u16::try_from(4 + file.len()).unwrap().to_le_bytes(), &file].concat();
    let path = [&node[..], &[0x7f, 0xff, 4, 0]].concat();
    [&le(0x7b6c_0018)[..], &le(size), &le(0), &le(path.len() as u64), &path].concat()
}
