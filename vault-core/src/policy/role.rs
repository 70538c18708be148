//! The roles of callers.

crate::words::word_enum! {
    /// What a caller may do.
    Role {
        /// Everything, under any declared purpose.
        Admin = "admin",
        /// Fields, lookups and value tokens, as its purposes allow.
        Service = "service",
        /// Keys, lock, callers; no values.
        Security = "security",
        /// Erasures, holds, export; no bulk reads.
        Privacy = "privacy",
        /// Status and, later, the audit log.
        Auditor = "auditor",
    }
}

impl Role {
    /// Whether this role may see values at all; which of them is for the purpose to say.
    pub fn sees_values(self) -> bool {
        matches!(self, Self::Admin | Self::Service | Self::Privacy)
    }
}
