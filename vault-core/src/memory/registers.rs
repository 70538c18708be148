//! Vector registers, overwritten: what was copied or enciphered last stays in them while a thread waits, and a key of 32 bytes
//! fits into one. A copy of a structure of a few hundred bytes leaves it there in pieces of 16 to 64 bytes.
//!
//! The one place with `unsafe`: nothing else reaches registers. What it may overwrite is what any function may.
#![allow(unsafe_code)]

/// Overwrites the vector registers of this thread, which no caller expects to be kept.
#[cfg(target_arch = "x86_64")]
pub(super) fn wipe() {
    use std::arch::asm;

    if std::arch::is_x86_feature_detected!("avx512f") {
        // SAFETY: the processor and the system know these registers; all are given as clobbered; memory, stack and flags
        // are left alone.
        unsafe {
            asm!(
                "vpxord zmm16, zmm16, zmm16",
                "vpxord zmm17, zmm17, zmm17",
                "vpxord zmm18, zmm18, zmm18",
                "vpxord zmm19, zmm19, zmm19",
                "vpxord zmm20, zmm20, zmm20",
                "vpxord zmm21, zmm21, zmm21",
                "vpxord zmm22, zmm22, zmm22",
                "vpxord zmm23, zmm23, zmm23",
                "vpxord zmm24, zmm24, zmm24",
                "vpxord zmm25, zmm25, zmm25",
                "vpxord zmm26, zmm26, zmm26",
                "vpxord zmm27, zmm27, zmm27",
                "vpxord zmm28, zmm28, zmm28",
                "vpxord zmm29, zmm29, zmm29",
                "vpxord zmm30, zmm30, zmm30",
                "vpxord zmm31, zmm31, zmm31",
                "vzeroall",
                clobber_abi("C"),
                options(nomem, nostack, preserves_flags),
            );
        }
    } else if std::arch::is_x86_feature_detected!("avx") {
        // SAFETY: as above.
        unsafe { asm!("vzeroall", clobber_abi("C"), options(nomem, nostack, preserves_flags)) }
    } else {
        // SAFETY: as above; every processor of this kind has these.
        unsafe {
            asm!(
                "xorps xmm0, xmm0",
                "xorps xmm1, xmm1",
                "xorps xmm2, xmm2",
                "xorps xmm3, xmm3",
                "xorps xmm4, xmm4",
                "xorps xmm5, xmm5",
                "xorps xmm6, xmm6",
                "xorps xmm7, xmm7",
                "xorps xmm8, xmm8",
                "xorps xmm9, xmm9",
                "xorps xmm10, xmm10",
                "xorps xmm11, xmm11",
                "xorps xmm12, xmm12",
                "xorps xmm13, xmm13",
                "xorps xmm14, xmm14",
                "xorps xmm15, xmm15",
                clobber_abi("C"),
                options(nomem, nostack, preserves_flags),
            );
        }
    }
}

/// The same. The lower halves of v8 to v15 belong to the caller, who has them on his stack when he is done with them.
#[cfg(target_arch = "aarch64")]
pub(super) fn wipe() {
    // SAFETY: every processor of this kind has these registers; all that are written are given as clobbered; memory, stack and
    // flags are left alone.
    unsafe {
        std::arch::asm!(
            "movi v0.2d, #0",
            "movi v1.2d, #0",
            "movi v2.2d, #0",
            "movi v3.2d, #0",
            "movi v4.2d, #0",
            "movi v5.2d, #0",
            "movi v6.2d, #0",
            "movi v7.2d, #0",
            "movi v16.2d, #0",
            "movi v17.2d, #0",
            "movi v18.2d, #0",
            "movi v19.2d, #0",
            "movi v20.2d, #0",
            "movi v21.2d, #0",
            "movi v22.2d, #0",
            "movi v23.2d, #0",
            "movi v24.2d, #0",
            "movi v25.2d, #0",
            "movi v26.2d, #0",
            "movi v27.2d, #0",
            "movi v28.2d, #0",
            "movi v29.2d, #0",
            "movi v30.2d, #0",
            "movi v31.2d, #0",
            clobber_abi("C"),
            options(nomem, nostack, preserves_flags),
        );
    }
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
pub(super) fn wipe() {}

#[cfg(all(test, target_arch = "x86_64"))]
mod tests {
    use std::arch::asm;

    use super::*;

    extern "C" fn nothing() {}

    extern "C" fn wiping() {
        wipe();
    }

    /// What two registers hold after a call, if something was in them: one that everything uses, and one that copies use on
    /// processors that have it.
    fn held_after(call: extern "C" fn()) -> [[u8; 16]; 2] {
        let (key, mut held) = (*b"sixteen of a key", [[0u8; 16]; 2]);
        let (from, to) = (key.as_ptr(), held.as_mut_ptr());
        if std::arch::is_x86_feature_detected!("avx512vl") {
            // SAFETY: reads the 16 bytes of `key` and writes the 32 of `held`, by registers that a call keeps; what it does
            // not keep is given as clobbered, and the stack is as a call expects it.
            unsafe {
                asm!(
                    "movups xmm7, [r12]",
                    "vmovdqu64 xmm20, [r12]",
                    "call {call}",
                    "movups [r13], xmm7",
                    "vmovdqu64 [r13 + 16], xmm20",
                    call = in(reg) call,
                    in("r12") from,
                    in("r13") to,
                    clobber_abi("C"),
                );
            }
        } else {
            // SAFETY: as above; of `held` only the first 16 bytes are written.
            unsafe {
                asm!(
                    "movups xmm7, [r12]",
                    "call {call}",
                    "movups [r13], xmm7",
                    call = in(reg) call,
                    in("r12") from,
                    in("r13") to,
                    clobber_abi("C"),
                );
            }
        }
        held
    }

    #[test]
    fn registers_hold_nothing_once_they_are_wiped() {
        let left = held_after(nothing);
        assert_eq!(&left[0], b"sixteen of a key", "the control");
        if std::arch::is_x86_feature_detected!("avx512vl") {
            assert_eq!(&left[1], b"sixteen of a key", "the control");
        }
        assert_eq!(held_after(wiping), [[0; 16]; 2]);
    }
}
