//! The stack that a program needs, from its instructions as the kernel runs them.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, Result, ensure};

/// An instruction (RFC 9669, section 3): opcode, registers, offset, immediate value.
#[derive(Clone, Copy, Debug)]
struct Instruction {
    opcode: u8,
    destination: u8,
    source: u8,
    offset: i16,
    immediate: i32,
}

/// The frame pointer.
const FP: u8 = 10;
/// `BPF_PSEUDO_CALL`: the source register of a call of another function of the program.
const PSEUDO_CALL: u8 = 1;

const CALL: u8 = 0x85;
const MOVE: u8 = 0xbf;
const ADD: u8 = 0x07;

/// Bytes of stack of the deepest chain of calls in `code`, each frame rounded up to `unit` bytes.
pub(super) fn deepest(code: &[u8], unit: u32) -> Result<u32> {
    let (chunks, rest) = code.as_chunks::<8>();
    ensure!(
        rest.is_empty() && !chunks.is_empty(),
        "{} bytes are no whole instructions",
        code.len()
    );
    let code: Vec<Instruction> = chunks.iter().map(decode).collect();
    let mut begins: BTreeSet<usize> = BTreeSet::from([0]);
    for (at, instruction) in code.iter().enumerate() {
        begins.extend(callee(at, instruction));
    }
    let ends = begins.iter().skip(1).copied().chain([code.len()]);
    let functions: BTreeMap<usize, usize> = begins.iter().copied().zip(ends).collect();
    chain(&code, &functions, 0, unit, 0)
}

fn decode(bytes: &[u8; 8]) -> Instruction {
    let [opcode, registers, o0, o1, i0, i1, i2, i3] = *bytes;
    Instruction {
        opcode,
        destination: registers & 15,
        source: registers >> 4,
        offset: i16::from_ne_bytes([o0, o1]),
        immediate: i32::from_ne_bytes([i0, i1, i2, i3]),
    }
}

/// Where a call leads to. The kernel's dump of a compiled program has the distance in the offset.
fn callee(at: usize, instruction: &Instruction) -> Option<usize> {
    if instruction.opcode != CALL || instruction.source != PSEUDO_CALL {
        return None;
    }
    at.checked_add_signed(isize::from(instruction.offset) + 1)
}

fn chain(
    code: &[Instruction],
    functions: &BTreeMap<usize, usize>,
    begin: usize,
    unit: u32,
    depth: u32,
) -> Result<u32> {
    ensure!(depth < 16, "calls that go deeper than the kernel allows");
    let end = *functions.get(&begin).context("a call into a function's middle")?;
    let body = code.get(begin..end).context("a call out of the program")?;
    let mut below = 0;
    for (at, instruction) in (begin..).zip(body) {
        if let Some(callee) = callee(at, instruction) {
            below = below.max(chain(code, functions, callee, unit, depth + 1)?);
        }
    }
    Ok(frame(body).max(1).next_multiple_of(unit) + below)
}

/// How far below its frame pointer a function reaches: directly, or by a pointer that it makes of it.
fn frame(body: &[Instruction]) -> u32 {
    let mut lowest: i64 = 0;
    let mut derived: [Option<i64>; 16] = [None; 16];
    for instruction in body {
        let class = instruction.opcode & 7;
        let base = match class {
            // Loads take the address from the source, stores from the destination.
            1 => Some(instruction.source),
            2 | 3 => Some(instruction.destination),
            _ => None,
        };
        if base == Some(FP) {
            lowest = lowest.min(instruction.offset.into());
        }
        let to = usize::from(instruction.destination);
        match instruction.opcode {
            MOVE if instruction.source == FP => derived[to] = Some(0),
            ADD => {
                if let Some(from) = derived[to] {
                    let at = from + i64::from(instruction.immediate);
                    derived[to] = Some(at);
                    lowest = lowest.min(at);
                }
            }
            _ if matches!(class, 1 | 4 | 7) => derived[to] = None,
            _ => {}
        }
    }
    lowest.unsigned_abs() as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    fn instruction(opcode: u8, destination: u8, source: u8, offset: i16, immediate: i32) -> [u8; 8] {
        let ([o0, o1], [i0, i1, i2, i3]) = (offset.to_ne_bytes(), immediate.to_ne_bytes());
        [opcode, source << 4 | destination, o0, o1, i0, i1, i2, i3]
    }

    #[test]
    fn the_deepest_chain_counts_each_frame_rounded_up() {
        let exit = instruction(0x95, 0, 0, 0, 0);
        // The first function stores 8 bytes down and calls the second, which hands a place 40 bytes down to a helper.
        let code = [
            instruction(0x7b, FP, 1, -8, 0),
            instruction(CALL, 0, PSEUDO_CALL, 1, 0),
            exit,
            instruction(MOVE, 2, FP, 0, 0),
            instruction(ADD, 2, 0, 0, -40),
            instruction(CALL, 0, 0, 0, 1),
            exit,
        ]
        .concat();
        assert_eq!(deepest(&code, 16).unwrap(), 16 + 48);
        assert_eq!(deepest(&code, 32).unwrap(), 32 + 64);
    }

    #[test]
    fn what_is_no_program_is_an_error() {
        deepest(&[], 16).unwrap_err();
        deepest(&[0; 7], 16).unwrap_err();
        let out = instruction(CALL, 0, PSEUDO_CALL, 100, 0);
        deepest(&out, 16).unwrap_err();
    }
}
