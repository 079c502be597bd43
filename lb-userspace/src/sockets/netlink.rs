//! One question by netlink, and its answers.

use std::io;

use rtnetlink::{
    packet_core::{
        NLM_F_ACK, NLM_F_REQUEST, NetlinkDeserializable, NetlinkHeader, NetlinkMessage, NetlinkPayload,
        NetlinkSerializable,
    },
    sys::{Socket, SocketAddr},
};

/// A blocking netlink socket.
pub(super) struct Netlink(Socket);

impl Netlink {
    /// Opens one of that protocol in the calling thread's network namespace.
    ///
    /// # Errors
    ///
    /// What the kernel says.
    pub(super) fn open(protocol: isize) -> io::Result<Self> {
        let mut socket = Socket::new(protocol)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        Ok(Self(socket))
    }

    /// Asks, and returns what comes before the end of the answer. `flags` are further ones than request and
    /// acknowledgement.
    ///
    /// # Errors
    ///
    /// What the kernel says, or that it cannot be understood.
    pub(super) fn ask<Q, A>(&self, question: Q, flags: u16) -> io::Result<Vec<A>>
    where
        Q: NetlinkSerializable,
        A: NetlinkDeserializable,
    {
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | NLM_F_ACK | flags;
        let mut message = NetlinkMessage::new(header, NetlinkPayload::InnerMessage(question));
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        self.0.send(&bytes, 0)?;
        let mut answers = Vec::new();
        loop {
            let (bytes, _) = self.0.recv_from_full()?;
            let mut rest = bytes.as_slice();
            while !rest.is_empty() {
                let message = NetlinkMessage::<A>::deserialize(rest)
                    .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error.to_string()))?;
                match message.payload {
                    NetlinkPayload::InnerMessage(answer) => answers.push(answer),
                    NetlinkPayload::Done(_) => return Ok(answers),
                    NetlinkPayload::Error(error) if error.code.is_none() => return Ok(answers),
                    NetlinkPayload::Error(error) => return Err(error.to_io()),
                    _ => {}
                }
                // Messages begin at multiples of four bytes.
                let len = (message.header.length as usize).next_multiple_of(4).max(4);
                rest = rest.get(len..).unwrap_or_default();
            }
        }
    }
}
