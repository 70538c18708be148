//! Sealing and opening of fields alone: one thread, no store, no HTTP.

use std::hint::black_box;
use std::time::{Duration, Instant};

use vault_core::crypto::field::{NONCE_LEN, Place, SealedField, seal};
use vault_core::crypto::{Dek, Random};
use vault_core::ids::SubjectUuid;

use crate::Failure;

const PLACE: Place<'static> = Place { subject: SubjectUuid([7; 16]), compartment: "profile", field: "home_address" };
/// Bytes of a value: an address.
const VALUE: [u8; 60] = *b"Flat 12, 105 Avenida de la Constitucion, 41001 Sevilla, ES..";
/// Fields that are sealed with one draw of randomness, as the fields of a subject are.
const ROW: usize = 6;
/// Operations between two looks at the clock.
const STRIDE: usize = 1200;

/// Fields a second on one core.
#[derive(Clone, Copy)]
pub(crate) struct Sealing {
    pub(crate) seals: f64,
    pub(crate) opens: f64,
}

/// Measures both.
pub(crate) fn measure(time: Duration) -> Result<Sealing, Failure> {
    let dek = Dek::draw(&mut Random::for_keys(1));
    let mut random = Random::new(0);
    let mut left = 0;
    let seals = rate(time, || {
        if left == 0 {
            (left, random) = (ROW, Random::new(ROW * NONCE_LEN));
        }
        left -= 1;
        black_box(seal(&dek, 1, 1, &PLACE, black_box(&VALUE), &mut random));
        Ok(())
    })?;
    let sealed = seal(&dek, 1, 1, &PLACE, &VALUE, &mut Random::new(NONCE_LEN));
    let opens = rate(time, || {
        black_box(SealedField::parse(black_box(&sealed))?.open(&dek, &PLACE)?);
        Ok(())
    })?;
    Ok(Sealing { seals, opens })
}

fn rate(time: Duration, mut once: impl FnMut() -> Result<(), Failure>) -> Result<f64, Failure> {
    let (start, mut done) = (Instant::now(), 0);
    while start.elapsed() < time {
        for _ in 0..STRIDE {
            once()?;
        }
        done += STRIDE;
    }
    Ok(done as f64 / start.elapsed().as_secs_f64())
}
