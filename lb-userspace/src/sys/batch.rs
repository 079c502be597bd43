//! Reading and writing maps a batch at a time: `BPF_MAP_LOOKUP_BATCH` and `BPF_MAP_UPDATE_BATCH` (kernel 5.6).

use std::{
    ffi::c_int,
    io,
    os::fd::{AsRawFd as _, BorrowedFd},
};

use aya::Pod;

use super::bpf::bpf;

const BPF_MAP_LOOKUP_BATCH: c_int = 24;
const BPF_MAP_UPDATE_BATCH: c_int = 26;

/// `struct { … } batch` of `union bpf_attr`.
#[repr(C)]
#[derive(Default)]
struct BatchAttr {
    in_batch: u64,
    out_batch: u64,
    keys: u64,
    values: u64,
    count: u32,
    map_fd: u32,
    elem_flags: u64,
    flags: u64,
}

/// How far a walk through a hash map has come: the kernel's word for a bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place(u32);

/// Copies the elements of the next buckets into `keys` and `values`, from `after` on or from the beginning. Returns how
/// many there were, and the place to go on from; none at the end. In an LRU map, looking does not count as use.
///
/// What is inserted or removed meanwhile may be seen or not; whatever is there all the time is seen.
///
/// # Errors
///
/// ENOSPC if a bucket holds more than there is room for; and whatever else the kernel says.
///
/// # Panics
///
/// If keys and values differ in number. Their sizes must be those of the map's elements.
pub fn lookup_batch<K: Pod, V: Pod>(
    map: BorrowedFd<'_>,
    after: Option<Place>,
    keys: &mut [K],
    values: &mut [V],
) -> io::Result<(usize, Option<Place>)> {
    assert_eq!(keys.len(), values.len(), "a value for each key");
    let mut next = 0u32;
    let mut attr = BatchAttr {
        in_batch: after
            .as_ref()
            .map_or(0, |Place(bucket)| std::ptr::from_ref(bucket) as u64),
        out_batch: std::ptr::from_mut(&mut next) as u64,
        keys: keys.as_mut_ptr() as u64,
        values: values.as_mut_ptr() as u64,
        count: u32::try_from(keys.len()).unwrap_or(u32::MAX),
        map_fd: map.as_raw_fd().cast_unsigned(),
        ..BatchAttr::default()
    };
    match bpf(BPF_MAP_LOOKUP_BATCH, &mut attr) {
        Ok(_) => Ok((attr.count as usize, Some(Place(next)))),
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok((attr.count as usize, None)),
        Err(error) => Err(error),
    }
}

/// Writes elements of an array or a hash map, each as a single call would, in order.
///
/// # Errors
///
/// What the kernel says of the first element that it does not take; those after it are not written.
///
/// # Panics
///
/// If keys and values differ in number. Their sizes must be those of the map's elements.
pub fn update_batch<K: Pod, V: Pod>(map: BorrowedFd<'_>, keys: &[K], values: &[V]) -> io::Result<()> {
    assert_eq!(keys.len(), values.len(), "a value for each key");
    let mut attr = BatchAttr {
        keys: keys.as_ptr() as u64,
        values: values.as_ptr() as u64,
        count: u32::try_from(keys.len()).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?,
        map_fd: map.as_raw_fd().cast_unsigned(),
        ..BatchAttr::default()
    };
    bpf(BPF_MAP_UPDATE_BATCH, &mut attr).map(drop)
}
