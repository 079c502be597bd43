//! The way through IPv6 extension headers to the transport header.
//!
//! Hop-by-hop options, routing, fragment and destination options headers are walked over, [`EXTENSION_HEADERS`] of them at
//! most. What lies behind others cannot be read (ESP), must not be changed (AH), or is not known.

use super::{Headers, Packet, Part};
use crate::{
    limits::EXTENSION_HEADERS,
    packet::ipv6_ext::{self, Extension},
    verdict::Reason,
};

/// Moves `headers`, which describe what follows the IPv6 header, on to the transport header; in a later fragment to what
/// follows the fragment header. What follows has its number in the key then, but in a later fragment: there it would be that
/// of another header, if there are some between, and differ from the first fragment's.
#[inline(never)]
pub(super) fn walk<P: Packet>(packet: &P, headers: &mut Headers<[u32; 4]>) -> Result<(), Reason> {
    let mut kind = headers.key.proto();
    let mut offset = headers.transport_offset as usize;
    let mut left = headers.transport_len as usize;
    let mut nth = 0;
    while nth < EXTENSION_HEADERS {
        if !ipv6_ext::is_extension_header(kind) {
            break;
        }
        nth += 1;
        let header = Extension(packet.read_at(offset).ok_or(Reason::Truncated)?);
        let len = match kind {
            ipv6_ext::FRAGMENT => {
                if headers.part != Part::Whole {
                    return Err(Reason::Malformed);
                }
                headers.part = Part::of(header.fragment_offset(), header.more_fragments());
                headers.identification = header.identification();
                Extension::LEN
            }
            ipv6_ext::ROUTING if header.segments_left() != 0 => return Err(Reason::ExtensionHeader),
            ipv6_ext::ROUTING | ipv6_ext::HOP_BY_HOP | ipv6_ext::DESTINATION => header.header_len(),
            _ => return Err(Reason::ExtensionHeader),
        };
        if len > left {
            return Err(Reason::Malformed);
        }
        offset += len;
        left -= len;
        if headers.part == Part::Later {
            kind = 0;
            break;
        }
        kind = header.next_header();
    }
    if headers.part != Part::Later && ipv6_ext::is_extension_header(kind) {
        return Err(Reason::ExtensionHeader);
    }
    headers.key.protocol = kind.into();
    headers.transport_offset = offset as u32;
    headers.transport_len = left as u32;
    Ok(())
}
