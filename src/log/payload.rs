//! What an event says, in words for people.
//!
//! The words come out of the event's data, which replay does not bind and whoever
//! wrote the log chose: they are never trusted, never longer than a line, and
//! never carry a control character to a terminal. Data that is not what its event
//! type promises is described as such; it is no error.

use super::event::Event;
use super::event_type::*;
use super::reader::Reader;

/// A line of a terminal, and more than any honest event needs.
const LONGEST: usize = 200;
/// As many as a line has room for.
const MOST_PARTITIONS: u64 = 4;

/// UEFI 2.10 §5.3.2: 128 bytes, or that times a power of two.
const SMALLEST_PARTITION_ENTRY: u32 = 128;

/// Why data could not be read as its event type says.
type Undecodable = &'static str;

/// One line without control characters; empty where the event has no data.
pub fn describe(event: &Event<'_>) -> String {
    match decode(event.event_type, event.data) {
        Ok(words) => printable_line(&words),
        Err(reason) => format!("not decodable: {reason}"),
    }
}

/// `text` on one line: control characters, and those that reorder what follows
/// them, as escapes.
pub fn printable(text: &str) -> String {
    text.chars().map(shown).collect()
}

/// The same, cut after [`LONGEST`] characters.
pub fn printable_line(text: &str) -> String {
    let mut line = String::new();
    let mut length = 0usize;
    for shown in text.chars().map(shown) {
        length = length.saturating_add(shown.chars().count());
        if length > LONGEST {
            line.push('…');
            break;
        }
        line.push_str(&shown);
    }
    line
}

fn shown(character: char) -> String {
    let reorders = matches!(character,
        '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}');
    match character.is_control() || reorders {
        true => character.escape_default().to_string(),
        false => character.to_string(),
    }
}

fn decode(event_type: u32, data: &[u8]) -> Result<String, Undecodable> {
    match event_type {
        EV_SEPARATOR => separator(data),
        EV_NO_ACTION => no_action(data),
        EV_EVENT_TAG => tagged(data),
        EV_POST_CODE | EV_POST_CODE2 | EV_S_CRTM_CONTENTS => match data.len() {
            16 if !is_text(data) => blob(&mut Reader::new(data)),
            _ if is_text(data) => Ok(text(data)),
            _ => blob2(data),
        },
        EV_S_CRTM_VERSION if data.len() == 16 && !is_text(data) && !is_utf16(data) => {
            guid(&mut Reader::new(data)).ok_or("no version")
        }
        EV_EFI_VARIABLE_DRIVER_CONFIG
        | EV_EFI_VARIABLE_BOOT
        | EV_EFI_VARIABLE_BOOT2
        | EV_EFI_VARIABLE_AUTHORITY => variable(data),
        EV_EFI_BOOT_SERVICES_APPLICATION
        | EV_EFI_BOOT_SERVICES_DRIVER
        | EV_EFI_RUNTIME_SERVICES_DRIVER => image_load(data),
        EV_EFI_GPT_EVENT | EV_EFI_GPT_EVENT2 => partitions(data),
        EV_EFI_PLATFORM_FIRMWARE_BLOB => blob(&mut Reader::new(data)),
        EV_EFI_PLATFORM_FIRMWARE_BLOB2 => blob2(data),
        EV_EFI_HANDOFF_TABLES => tables(&mut Reader::new(data)),
        EV_EFI_HANDOFF_TABLES2 => tables2(data),
        _ if is_text(data) || is_utf16(data) => Ok(text(data)),
        _ => Ok(format!("{} bytes", data.len())),
    }
}

/// PFP §10.4.1: 0 or 0xffffffff where all went well, 1 where the firmware failed.
fn separator(data: &[u8]) -> Result<String, Undecodable> {
    match Reader::new(data).u32() {
        Some(1) if data.len() == 4 => Ok("error: the firmware reports a failure".to_owned()),
        Some(value @ (0 | u32::MAX)) if data.len() == 4 => Ok(format!("separator {value:#010x}")),
        _ if is_text(data) => Ok(format!("separator {}", text(data))),
        _ => Ok(format!("separator of {} bytes", data.len())),
    }
}

/// EV_NO_ACTION events start with a signature of 16 bytes (PFP §10.4.5).
fn no_action(data: &[u8]) -> Result<String, Undecodable> {
    let mut reader = Reader::new(data);
    let Some(signature) = reader.take(16) else {
        return Ok(format!("{} bytes without signature", data.len()));
    };
    if signature == b"StartupLocality\0" {
        // Some firmware pads this event; the locality is the byte after the name.
        let locality = reader.u8().ok_or("StartupLocality without its locality")?;
        return Ok(format!("StartupLocality {locality}"));
    }
    if is_text(signature) {
        return Ok(text(signature));
    }
    Ok(format!("{} bytes", data.len()))
}

/// TCG_PCClientTaggedEvent: identifier, size, data (PFP §10.4.2.1).
fn tagged(data: &[u8]) -> Result<String, Undecodable> {
    let mut reader = Reader::new(data);
    let (id, size) = reader.u32().zip(reader.u32()).ok_or("tag shorter than its header")?;
    let content = reader.take_u32(size).ok_or("tag longer than the event")?;
    let name = match id {
        0x8f3b_22ec => " initrd",
        0x8f3b_22ed => " load options",
        0xf5bc_582a => " loader.conf",
        0x4141_454c => " AAEL",
        0x4e52_494c => " container record",
        _ => "",
    };
    match is_text(content) || is_utf16(content) {
        true => Ok(format!("tag {id:#010x}{name}: {}", text(content))),
        false => Ok(format!("tag {id:#010x}{name}: {} bytes", content.len())),
    }
}

/// UEFI_VARIABLE_DATA (PFP §10.2.6): vendor GUID, name and data, both lengths
/// 64 bits wide and as hostile as can be.
fn variable(data: &[u8]) -> Result<String, Undecodable> {
    let mut reader = Reader::new(data);
    let vendor = guid(&mut reader).ok_or("variable shorter than its GUID")?;
    let lengths = reader.u64().zip(reader.u64());
    let (name_length, data_length) = lengths.ok_or("variable shorter than its lengths")?;
    let name = usize::try_from(name_length)
        .ok()
        .and_then(|characters| characters.checked_mul(2))
        .and_then(|bytes| reader.take(bytes))
        .ok_or("variable name longer than the event")?;
    let value = usize::try_from(data_length)
        .ok()
        .and_then(|bytes| reader.take(bytes))
        .ok_or("variable data longer than the event")?;
    let name = utf16(name);
    Ok(match (name.as_str(), value) {
        ("SecureBoot", [1]) => "SecureBoot: enabled".to_owned(),
        ("SecureBoot", [] | [0]) => "SecureBoot: disabled".to_owned(),
        _ => format!("{name} ({vendor}), {} bytes", value.len()),
    })
}

/// UEFI_IMAGE_LOAD_EVENT (PFP §10.2.3); of the device path, its file names.
fn image_load(data: &[u8]) -> Result<String, Undecodable> {
    let mut reader = Reader::new(data);
    let fields = (|| {
        let (location, length) = (reader.u64()?, reader.u64()?);
        reader.u64()?;
        Some((location, length, reader.u64()?))
    })();
    let (location, length, path_length) = fields.ok_or("image load shorter than its fields")?;
    let path = usize::try_from(path_length)
        .ok()
        .and_then(|bytes| reader.take(bytes))
        .ok_or("device path longer than the event")?;
    let file = file_path(path).map(|file| format!("{file}, ")).unwrap_or_default();
    Ok(format!("{file}{length} bytes at {location:#x}"))
}

/// The file path nodes of a device path (UEFI 2.10 §10.3.5.4), where it has any.
fn file_path(path: &[u8]) -> Option<String> {
    let mut reader = Reader::new(path);
    let mut file = String::new();
    while let (Some(kind), Some(subtype), Some(length)) = (reader.u8(), reader.u8(), reader.u16()) {
        // A node's length includes its four header bytes; a shorter one would
        // never come to an end.
        let Some(node) = usize::from(length).checked_sub(4).and_then(|n| reader.take(n)) else {
            break;
        };
        if (kind, subtype) == (4, 4) {
            file.push_str(&utf16(node));
        }
    }
    (!file.is_empty()).then_some(file)
}

/// UEFI_GPT_DATA (PFP §10.2.4): a partition table header, a count, the entries
/// (UEFI 2.10 §5.3.2, §5.3.3).
fn partitions(data: &[u8]) -> Result<String, Undecodable> {
    let mut reader = Reader::new(data);
    let header = reader.take(92).ok_or("partition table shorter than its header")?;
    let count = reader.u64().ok_or("partition table without a count")?;
    let entry_size = Reader::at(header, 84).u32().unwrap_or(0).max(SMALLEST_PARTITION_ENTRY);
    let room = (reader.rest().len() as u64).checked_div(entry_size.into()).unwrap_or(0);
    if count > room {
        return Err("more partitions than data");
    }
    let mut names = Vec::new();
    for _ in 0..count.min(MOST_PARTITIONS) {
        let entry = reader.take_u32(entry_size).unwrap_or_default();
        let name = Reader::at(entry, 56).take(72).map(utf16).unwrap_or_default();
        names.push(name);
    }
    Ok(format!("{count} partitions: {}", names.join(", ")))
}

/// UEFI_PLATFORM_FIRMWARE_BLOB (PFP §10.2.5).
fn blob(reader: &mut Reader<'_>) -> Result<String, Undecodable> {
    let (base, length) = reader.u64().zip(reader.u64()).ok_or("blob shorter than its fields")?;
    Ok(format!("{length} bytes at {base:#x}"))
}

/// UEFI_PLATFORM_FIRMWARE_BLOB2: the same behind a description.
fn blob2(data: &[u8]) -> Result<String, Undecodable> {
    let mut reader = Reader::new(data);
    let description = description(&mut reader)?;
    Ok(format!("{description}: {}", blob(&mut reader)?))
}

/// UEFI_HANDOFF_TABLE_POINTERS (PFP §10.2.7).
fn tables(reader: &mut Reader<'_>) -> Result<String, Undecodable> {
    let count = reader.u64().ok_or("table list without a count")?;
    let first = guid(reader).map(|guid| format!(", first {guid}")).unwrap_or_default();
    Ok(format!("{count} tables{first}"))
}

/// UEFI_HANDOFF_TABLE_POINTERS2: the same behind a description.
fn tables2(data: &[u8]) -> Result<String, Undecodable> {
    let mut reader = Reader::new(data);
    let description = description(&mut reader)?;
    Ok(format!("{description}: {}", tables(&mut reader)?))
}

fn description(reader: &mut Reader<'_>) -> Result<String, Undecodable> {
    let length = reader.u8().ok_or("no description")?;
    let bytes = reader.take(usize::from(length)).ok_or("description longer than the event")?;
    Ok(text(bytes))
}

/// A GUID in the text form of UEFI 2.10 appendix A: the first three fields are
/// little-endian numbers, the rest is bytes.
fn guid(reader: &mut Reader<'_>) -> Option<String> {
    let (first, second, third) = (reader.u32()?, reader.u16()?, reader.u16()?);
    let (fourth, node) = (reader.take(2)?, reader.take(6)?);
    Some(format!("{first:08x}-{second:04x}-{third:04x}-{}-{}", hex(fourth), hex(node)))
}

/// Lower-case hexadecimal digits.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn utf16(bytes: &[u8]) -> String {
    let mut reader = Reader::new(bytes);
    let units = std::iter::from_fn(|| reader.u16()).take_while(|unit| *unit != 0);
    char::decode_utf16(units).map(|unit| unit.unwrap_or(char::REPLACEMENT_CHARACTER)).collect()
}

/// Text of either encoding without the NULs that end it.
fn text(bytes: &[u8]) -> String {
    match is_utf16(bytes) {
        true => utf16(bytes),
        false => String::from_utf8_lossy(bytes).trim_end_matches('\0').to_owned(),
    }
}

/// Printable ASCII, possibly ended by NULs. EV_POST_CODE and others hold text or
/// structures, and nothing but the bytes tells which.
fn is_text(bytes: &[u8]) -> bool {
    let end = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last.saturating_add(1));
    end > 0
        && bytes
            .iter()
            .take(end)
            .all(|byte| byte.is_ascii_graphic() || matches!(byte, b' ' | b'\n' | b'\t'))
}

/// ASCII in UTF-16: every second byte is zero and the others are not.
fn is_utf16(bytes: &[u8]) -> bool {
    let mut reader = Reader::new(bytes);
    let mut units = std::iter::from_fn(|| reader.u16());
    let first_is_text = units.next().is_some_and(|unit| (0x20..0x7f).contains(&unit));
    first_is_text && bytes.len() > 2 && units.all(|unit| unit < 0x80)
}
