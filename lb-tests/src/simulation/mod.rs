//! Several nodes with the native datapath, and a wire between them: what must hold for any flows and any changes.
//!
//! ```text
//!   pods of node 1 ─┐                 ┌─ pods of node 2
//!                 node 1 ── wire ── node 2
//!                             ├────── node 3 ─── pods of node 3
//!                          clients outside
//! ```
//!
//! - [`net`]: who has which address, and the way of a frame from hop to hop, each through the hook that it meets;
//! - [`control`]: the maps of a node, as an agent fills them;
//! - [`frame`]: frames that say whose they are;
//! - [`flows`]: conversations and the rules that they are held to.
//!
//! There is no clock and no randomness here: a run is a function of its steps.

pub mod control;
pub mod flows;
pub mod frame;
pub mod net;
