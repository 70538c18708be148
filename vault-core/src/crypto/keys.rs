//! Keys, typed by role: a page key can not seal a field.
//!
//! All are 256 random bits, wiped on drop; none can be cloned, serialised or printed.

use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use super::random::Random;
use super::{aead, equal};

macro_rules! key_type {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Zeroize, ZeroizeOnDrop)]
        pub struct $name([u8; 32]);

        impl $name {
            /// A fresh key.
            pub fn draw(random: &mut Random) -> Self {
                let mut key = Self([0; 32]);
                random.fill(&mut key.0);
                key
            }

            /// Takes a key that was wrapped; `None` if the slice is not 32 bytes.
            pub fn from_slice(bytes: &[u8]) -> Option<Self> {
                let mut key = Self([0; 32]);
                if bytes.len() != 32 {
                    return None;
                }
                key.0.copy_from_slice(bytes);
                Some(key)
            }

            /// The key's bytes, for wrapping it into the layer above and for nothing else.
            pub fn expose(&self) -> &[u8; 32] {
                &self.0
            }

            /// A second holder of the same key, where an owner has to keep his while another uses it.
            pub fn duplicate(&self) -> Self {
                Self(self.0)
            }
        }

        impl std::fmt::Debug for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(concat!(stringify!($name), "(..)"))
            }
        }

        impl PartialEq for $name {
            fn eq(&self, other: &Self) -> bool {
                equal(&self.0, &other.0)
            }
        }

        impl Eq for $name {}
    };
}

key_type! {
    /// Opens the vault header; lives only in root slots.
    RootKey
}
key_type! {
    /// Seals one page of the sealed trie, and gives it its address.
    PageKey
}
key_type! {
    /// Makes the tags of one subtree.
    TagKey
}
key_type! {
    /// Data encryption key of one subject and compartment.
    Dek
}
key_type! {
    /// Seals the META record.
    MetaKey
}
key_type! {
    /// Makes the stored form of callers' API tokens.
    CallerKey
}
key_type! {
    /// Makes one subject's pseudonyms in the audit log.
    AuditKey
}
key_type! {
    /// Salts the commitments of one erasure's certificates.
    ErasureKey
}
key_type! {
    /// Seals refusals noted since a root is retained.
    RefusalKey
}
key_type! {
    /// Seals the entries of a root slot; wrapped by every unlock key.
    SlotKey
}
key_type! {
    /// From a passphrase, a key file or a device: opens a root slot.
    UnlockKey
}

impl RootKey {
    /// The page key of the vault header.
    pub fn header_key(&self) -> PageKey {
        PageKey(*aead::expand::<32>(&self.0, &[b"uv1/root/header"]))
    }

    /// What seals the refusals since this root is retained.
    pub fn refusal_key(&self) -> RefusalKey {
        RefusalKey(*aead::expand::<32>(&self.0, &[b"uv1/root/refusals"]))
    }
}

impl PageKey {
    /// The 32-byte address of the page in the store: derived from the key, so that it says nothing about tags and a
    /// page with a new key is a new row.
    pub fn address(&self) -> [u8; 32] {
        *aead::expand::<32>(&self.0, &[b"uv1/page/address"])
    }

    pub(super) fn sealing_key(&self) -> Zeroizing<[u8; 32]> {
        aead::expand::<32>(&self.0, &[b"uv1/page/seal"])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_hide_and_differ() {
        let mut random = Random::for_keys(2);
        let (a, b) = (PageKey::draw(&mut random), PageKey::draw(&mut random));
        assert_ne!(a, b);
        assert_ne!(a.address(), b.address());
        assert_eq!(a, a.duplicate());
        assert_eq!(format!("{a:?}"), "PageKey(..)");
        assert!(PageKey::from_slice(&[0; 31]).is_none());
    }
}
