//! The elements of array maps as memory.

use std::{
    ffi::c_void,
    io,
    marker::PhantomData,
    os::fd::AsFd,
    ptr::NonNull,
    sync::atomic::{AtomicU32, AtomicU64, Ordering},
};

use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

/// An integer that kernel and agent share: it is read and written whole.
pub trait Shared: Copy {
    /// The atomic of the same size.
    type Atomic: Sync;
    /// One store, after everything that was stored before.
    fn store(to: &Self::Atomic, value: Self);
    /// One load.
    fn load(from: &Self::Atomic) -> Self;
}

macro_rules! shared {
    ($integer:ty, $atomic:ty) => {
        impl Shared for $integer {
            type Atomic = $atomic;

            fn store(to: &$atomic, value: Self) {
                to.store(value, Ordering::Release);
            }

            fn load(from: &$atomic) -> Self {
                from.load(Ordering::Acquire)
            }
        }
    };
}

shared!(u32, AtomicU32);
shared!(u64, AtomicU64);

/// The elements of an array map (`BPF_F_MMAPABLE`) as memory, all of them or some in a row.
#[derive(Debug)]
pub struct MappedArray<T: Shared> {
    /// Where the mapping begins: a page.
    pages: NonNull<c_void>,
    /// Its length in bytes.
    bytes: usize,
    /// The first element.
    start: NonNull<T::Atomic>,
    len: usize,
    element: PhantomData<T>,
}

// SAFETY: the memory is shared with the kernel anyway, and reached through atomics only.
unsafe impl<T: Shared> Send for MappedArray<T> {}

impl<T: Shared> MappedArray<T> {
    /// Maps the first `len` elements (of `size_of::<T>()` bytes each, without gaps between those of the map).
    ///
    /// # Errors
    ///
    /// If the map is smaller, or was made without `BPF_F_MMAPABLE`.
    pub fn new(map: impl AsFd, len: usize) -> io::Result<Self> {
        Self::part(map, 0, len)
    }

    /// As [`Self::new`], `len` elements from `first` on, which is then element 0.
    ///
    /// # Errors
    ///
    /// As [`Self::new`].
    pub fn part(map: impl AsFd, first: usize, len: usize) -> io::Result<Self> {
        let invalid = || io::Error::from(io::ErrorKind::InvalidInput);
        let offset = first.checked_mul(size_of::<T>()).ok_or_else(invalid)?;
        let head = offset % rustix::param::page_size();
        let length = len.checked_mul(size_of::<T>()).ok_or_else(invalid)?;
        let bytes = length.checked_add(head).ok_or_else(invalid)?;
        // SAFETY: a new mapping at an address of the kernel's choice. The kernel refuses one that reaches beyond the
        // map (rounded up to pages), and keeps the map alive as long as the mapping.
        let pages = unsafe {
            mmap(
                std::ptr::null_mut(),
                bytes,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::SHARED,
                map,
                (offset - head) as u64,
            )?
        };
        let pages = NonNull::new(pages).ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))?;
        // SAFETY: `head` is less than the length of the mapping.
        let start = unsafe { pages.byte_add(head) }.cast();
        Ok(Self {
            pages,
            bytes,
            start,
            len,
            element: PhantomData,
        })
    }

    /// The number of elements.
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Whether there are no elements.
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    fn elements(&self) -> &[T::Atomic] {
        // SAFETY: `len` elements are mapped from `start` on as long as `self` lives, any bytes are a value, and all
        // access is atomic.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }

    /// Writes an element by one store; none if there is no such element.
    #[must_use]
    pub fn set(&self, index: u32, value: T) -> Option<()> {
        T::store(self.elements().get(index as usize)?, value);
        Some(())
    }

    /// An element, if there is one with that index.
    pub fn get(&self, index: u32) -> Option<T> {
        self.elements().get(index as usize).map(T::load)
    }
}

impl<T: Shared> Drop for MappedArray<T> {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours, and no reference into it outlives `self`.
        let unmapped = unsafe { munmap(self.pages.as_ptr(), self.bytes) };
        debug_assert!(unmapped.is_ok(), "unmapping our own mapping: {unmapped:?}");
    }
}
