//! Bodies of answers: whole ones, and those that come bit by bit.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use hyper::body::{Body, Bytes, Frame, SizeHint};
use tokio::{sync::mpsc, task, time};

/// Pieces that wait to be sent before the writer is held up.
const PIECES: usize = 4;

/// The body of an answer.
#[derive(Debug)]
pub(crate) enum Answer {
    Whole(Bytes),
    Stream(mpsc::Receiver<io::Result<Bytes>>),
}

impl Body for Answer {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        match &mut *self {
            Self::Whole(bytes) if bytes.is_empty() => Poll::Ready(None),
            Self::Whole(bytes) => Poll::Ready(Some(Ok(Frame::data(std::mem::take(bytes))))),
            Self::Stream(pieces) => pieces
                .poll_recv(context)
                .map(|piece| piece.map(|bytes| bytes.map(Frame::data))),
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, Self::Whole(bytes) if bytes.is_empty())
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Self::Stream(_) => SizeHint::default(),
        }
    }
}

/// Writes a body bit by bit.
#[derive(Debug)]
pub(crate) struct Pen {
    to: mpsc::Sender<io::Result<Bytes>>,
    slow: Option<Duration>,
}

/// The reader is gone.
#[derive(Debug)]
pub(crate) struct Gone;

impl Pen {
    /// A pen, and the body that it writes; slowly, if there is a pause for each byte.
    pub(crate) fn new(slow: Option<Duration>) -> (Self, Answer) {
        let (to, from) = mpsc::channel(PIECES);
        (Self { to, slow }, Answer::Stream(from))
    }

    /// Sends `bytes`.
    pub(crate) async fn write(&self, bytes: Bytes) -> Result<(), Gone> {
        let Some(pause) = self.slow else {
            return self.to.send(Ok(bytes)).await.map_err(|_| Gone);
        };
        for at in 0..bytes.len() {
            self.to.send(Ok(bytes.slice(at..=at))).await.map_err(|_| Gone)?;
            time::sleep(pause).await;
        }
        Ok(())
    }

    /// Sends the first half of `bytes` and breaks the connection.
    pub(crate) async fn tear(&self, mut bytes: Bytes) {
        bytes.truncate(bytes.len() / 2);
        if self.to.send(Ok(bytes)).await.is_ok() {
            // The connection writes out what it has when there is nothing more to read: let it come to that, or the half
            // is lost with the connection, which clients must bear as well.
            while self.to.capacity() < PIECES {
                task::yield_now().await;
            }
            task::yield_now().await;
            let torn = io::Error::new(io::ErrorKind::ConnectionAborted, "torn by order of a test");
            let _ = self.to.send(Err(torn)).await;
        }
    }

    /// Waits until the reader is gone.
    pub(crate) async fn gone(&self) {
        self.to.closed().await;
    }
}
