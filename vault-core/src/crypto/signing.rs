//! The key that signs the head of the audit log: Ed25519.

use ed25519_dalek::{Signer, SigningKey};

use super::Random;

/// Signs the heads of one vault's audit log. Wiped on drop; never printed.
pub struct LogKey(SigningKey);

impl LogKey {
    /// A fresh key.
    pub fn draw(random: &mut Random) -> Self {
        Self(SigningKey::from_bytes(&zeroize::Zeroizing::new(random.array())))
    }

    /// Takes a key that was wrapped; `None` if the slice is not 32 bytes.
    pub fn from_slice(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(|seed| Self(SigningKey::from_bytes(seed)))
    }

    /// The seed, for wrapping it into the layer above and for nothing else.
    pub fn expose(&self) -> &[u8; 32] {
        self.0.as_bytes()
    }

    /// The public half.
    pub fn public(&self) -> [u8; 32] {
        self.0.verifying_key().to_bytes()
    }

    /// A signature.
    pub fn sign(&self, message: &[u8]) -> [u8; 64] {
        self.0.sign(message).to_bytes()
    }
}

impl std::fmt::Debug for LogKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("LogKey(..)")
    }
}
