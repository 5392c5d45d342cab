//! sqlite-vec, compiled in.

use std::sync::Once;

/// Makes sqlite-vec's functions and tables known to every SQLite connection that this process opens from now on.
pub(in crate::phoebe) fn register() {
    static REGISTERED: Once = Once::new();
    REGISTERED.call_once(|| {
        #[allow(unsafe_code, reason = "SQLite has no safe call to register an extension that is linked in")]
        // SAFETY: sqlite3_vec_init has the signature of an extension's entry point (its C declaration takes the connection, an error
        // message and SQLite's routines), which the binding leaves out; SQLite calls it with just these.
        let code = unsafe {
            let entry = std::mem::transmute::<
                *const (),
                unsafe extern "C" fn(
                    *mut libsqlite3_sys::sqlite3,
                    *mut *mut std::ffi::c_char,
                    *const libsqlite3_sys::sqlite3_api_routines,
                ) -> std::ffi::c_int,
            >(sqlite_vec::sqlite3_vec_init as *const ());
            libsqlite3_sys::sqlite3_auto_extension(Some(entry))
        };
        if code != libsqlite3_sys::SQLITE_OK {
            tracing::error!(code, "sqlite-vec could not be registered");
        }
    });
}
