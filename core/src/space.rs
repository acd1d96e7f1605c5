//! Memory spaces: what a device's views point into.

use crate::Scalar;

/// A kind of memory: the host's, a GPU's. Separate from [`Device`](crate::Device), so that code over
/// views does not depend on a device's lifetime.
///
/// # For device authors
/// `Ref` and `Mut` borrow flat memory that somebody else owns, `len` elements of it. For memory of
/// the host this is [`Host`], with slices. For other memory, wrap a pointer, a length and a
/// lifetime, and let the unsafe constructor carry the contract.
pub trait Space: 'static + Sized {
    /// Shared memory.
    type Ref<'a, T: Scalar>: Copy;
    /// Exclusive memory.
    type Mut<'a, T: Scalar>;

    /// Elements of shared memory.
    fn len<T: Scalar>(memory: &Self::Ref<'_, T>) -> usize;
    /// Elements of exclusive memory.
    fn len_mut<T: Scalar>(memory: &Self::Mut<'_, T>) -> usize;
    /// Shortens the lifetime of shared memory.
    fn shorten<'s, 'a: 's, T: Scalar>(memory: Self::Ref<'a, T>) -> Self::Ref<'s, T>;
    /// Lends exclusive memory for a while.
    fn reborrow<'s, 'a: 's, T: Scalar>(memory: &'s mut Self::Mut<'a, T>) -> Self::Mut<'s, T>;
    /// Parts exclusive memory before element `at`.
    ///
    /// # Panics
    /// Where `at` is behind the end.
    fn split_mut<'s, 'a: 's, T: Scalar>(
        memory: Self::Mut<'a, T>,
        at: usize,
    ) -> (Self::Mut<'s, T>, Self::Mut<'s, T>);
    /// Lends exclusive memory as shared for a while.
    fn freeze<'s, 'a: 's, T: Scalar>(memory: &'s Self::Mut<'a, T>) -> Self::Ref<'s, T>;
}

/// Ordinary memory, as slices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Host {}

impl Space for Host {
    type Ref<'a, T: Scalar> = &'a [T];
    type Mut<'a, T: Scalar> = &'a mut [T];

    fn len<T: Scalar>(memory: &&[T]) -> usize {
        memory.len()
    }

    fn len_mut<T: Scalar>(memory: &&mut [T]) -> usize {
        memory.len()
    }

    fn shorten<'s, 'a: 's, T: Scalar>(memory: &'a [T]) -> &'s [T] {
        memory
    }

    fn reborrow<'s, 'a: 's, T: Scalar>(memory: &'s mut &'a mut [T]) -> &'s mut [T] {
        memory
    }

    fn split_mut<'s, 'a: 's, T: Scalar>(memory: &'a mut [T], at: usize) -> (&'s mut [T], &'s mut [T]) {
        memory.split_at_mut(at)
    }

    fn freeze<'s, 'a: 's, T: Scalar>(memory: &'s &'a mut [T]) -> &'s [T] {
        memory
    }
}
