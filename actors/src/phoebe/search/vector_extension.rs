//! SQLite extensions loaded into every connection: sqlite-vec, statically linked, and a Hamming
//! distance function for the first search pass.

use std::ffi::{c_char, c_int, c_void};
use std::sync::Once;

use libsqlite3_sys as ffi;

/// Registers sqlite-vec's functions and tables, and `nyx_hamming(a, b)`, for every SQLite
/// connection that this process opens from now on.
pub(in crate::phoebe) fn register() {
    static REGISTERED: Once = Once::new();
    REGISTERED.call_once(|| {
        #[allow(
            unsafe_code,
            reason = "SQLite has no safe call to register an extension that is linked in"
        )]
        // SAFETY: sqlite3_vec_init has the signature of an extension entry point (its C declaration
        // takes the connection, an error message and SQLite's routines), which the binding omits;
        // SQLite calls both entry points with exactly these arguments.
        let codes = unsafe {
            let entry =
                std::mem::transmute::<*const (), Entry>(sqlite_vec::sqlite3_vec_init as *const ());
            [
                ffi::sqlite3_auto_extension(Some(entry)),
                ffi::sqlite3_auto_extension(Some(add_hamming)),
            ]
        };
        if codes.iter().any(|code| *code != ffi::SQLITE_OK) {
            tracing::error!(?codes, "SQLite's extensions could not be registered");
        }
    });
}

type Entry = unsafe extern "C" fn(
    *mut ffi::sqlite3,
    *mut *mut c_char,
    *const ffi::sqlite3_api_routines,
) -> c_int;

#[allow(unsafe_code, reason = "a function of SQL is registered through SQLite's C interface")]
unsafe extern "C" fn add_hamming(
    connection: *mut ffi::sqlite3,
    _: *mut *mut c_char,
    _: *const ffi::sqlite3_api_routines,
) -> c_int {
    let (name, flags, none) = (
        c"nyx_hamming".as_ptr(),
        ffi::SQLITE_UTF8 | ffi::SQLITE_DETERMINISTIC,
        std::ptr::null_mut::<c_void>(),
    );
    // SAFETY: the connection is the one that SQLite is opening; the function has no state
    unsafe {
        ffi::sqlite3_create_function_v2(
            connection,
            name,
            2,
            flags,
            none,
            Some(hamming),
            None,
            None,
            None,
        )
    }
}

/// `nyx_hamming(a, b)`: the number of differing bits of two blobs, up to the length of the shorter
/// one. sqlite-vec's own function validates and copies both for every row.
#[allow(unsafe_code, reason = "a function of SQL is called with SQLite's own values")]
unsafe extern "C" fn hamming(
    context: *mut ffi::sqlite3_context,
    _: c_int,
    arguments: *mut *mut ffi::sqlite3_value,
) {
    let blob = |at: usize| {
        // SAFETY: SQLite passes the two arguments that the function was registered for; a blob's
        // bytes are valid for the duration of the call
        unsafe {
            let value = *arguments.add(at);
            let bytes = ffi::sqlite3_value_blob(value).cast::<u8>();
            let length = usize::try_from(ffi::sqlite3_value_bytes(value)).unwrap_or(0);
            if bytes.is_null() { &[][..] } else { std::slice::from_raw_parts(bytes, length) }
        }
    };
    // SAFETY: the context is the one of this call
    unsafe { ffi::sqlite3_result_int(context, differing(blob(0), blob(1)).cast_signed()) }
}

fn differing(a: &[u8], b: &[u8]) -> u32 {
    let ((a, rest_of_a), (b, rest_of_b)) = (a.as_chunks::<8>(), b.as_chunks::<8>());
    let words = a
        .iter()
        .zip(b)
        .map(|(a, b)| (u64::from_ne_bytes(*a) ^ u64::from_ne_bytes(*b)).count_ones());
    words.sum::<u32>()
        + rest_of_a.iter().zip(rest_of_b).map(|(a, b)| (a ^ b).count_ones()).sum::<u32>()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_that_differ_are_counted() {
        let bits: Vec<u8> = (0..13).collect();
        let other: Vec<u8> = (0..13).map(|byte| byte ^ 0b101).collect();
        assert_eq!(
            (differing(&bits, &bits), differing(&bits, &other), differing(&[0xff; 9], &[0; 9])),
            (0, 26, 72)
        );
    }
}
