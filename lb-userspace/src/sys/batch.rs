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

impl Place {
    /// The place from which a walk through an array goes on with `index`; none for its beginning.
    pub const fn before(index: u32) -> Option<Self> {
        match index.checked_sub(1) {
            Some(last) => Some(Self(last)),
            None => None,
        }
    }
}

/// Elements that a step begins with room for. A bucket of the kernel's table holds one or two.
const ROOM: usize = 1_024;

/// Room for the elements of one step of a walk through a map.
#[derive(Debug)]
pub struct Steps<K, V> {
    keys: Vec<K>,
    values: Vec<V>,
}

impl<K: Pod, V: Pod> Steps<K, V> {
    /// Room, filled with any key and value of the map's.
    pub fn new(key: K, value: V) -> Self {
        Self {
            keys: vec![key; ROOM],
            values: vec![value; ROOM],
        }
    }

    /// Some of the elements behind `after`, and where to go on; none at the end.
    ///
    /// # Errors
    ///
    /// What the kernel says.
    pub fn step(
        &mut self,
        map: BorrowedFd<'_>,
        after: Option<Place>,
    ) -> io::Result<(impl Iterator<Item = (K, V)>, Option<Place>)> {
        let (count, next) = loop {
            match lookup_batch(map, after, &mut self.keys, &mut self.values) {
                Err(error) if error.raw_os_error() == Some(libc::ENOSPC) => {
                    let room = self.keys.len() * 2;
                    let (key, value) = (self.keys[0], self.values[0]);
                    self.keys.resize(room, key);
                    self.values.resize(room, value);
                }
                read => break read?,
            }
        };
        let read = self.keys.iter().zip(&self.values).take(count);
        Ok((read.map(|(key, value)| (*key, *value)), next))
    }
}

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
