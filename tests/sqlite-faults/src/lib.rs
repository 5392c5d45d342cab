//! Test support: a VFS on top of SQLite's default one that fails the n-th write, sync or
//! truncation, as a broken or full disk would.
//!
//! The fault plan is global to all files opened through the VFS, so tests that use it must not run
//! concurrently.
#![allow(unsafe_code, reason = "a VFS is a table of C functions")]

use std::ffi::{CStr, c_char, c_int, c_void};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};

use libsqlite3_sys as ffi;

/// The name of the VFS: `sqlite://PATH?vfs=nyx-faults`.
pub const NAME: &CStr = c"nyx-faults";

/// Operations until the next fault; none is planned at or below 0.
static LEFT: AtomicI64 = AtomicI64::new(0);
/// Whether all later operations fail too.
static LASTING: AtomicBool = AtomicBool::new(false);
static BROKEN: AtomicBool = AtomicBool::new(false);
static FAILED: AtomicU64 = AtomicU64::new(0);
/// Whether failing writes return `SQLITE_FULL`.
static FULL: AtomicBool = AtomicBool::new(false);

/// SQLite's default VFS, to which all calls are forwarded.
struct Registered {
    real: *mut ffi::sqlite3_vfs,
}

// SAFETY: SQLite's VFS objects live as long as the process and may be used from every thread.
unsafe impl Send for Registered {}
// SAFETY: as above.
unsafe impl Sync for Registered {}

static REGISTERED: OnceLock<Registered> = OnceLock::new();

/// Registers the VFS, once.
pub fn register() {
    REGISTERED.get_or_init(|| {
        // SAFETY: a null name selects the default VFS; its copy, and the copy's name, are never
        // freed.
        unsafe {
            let real = ffi::sqlite3_vfs_find(std::ptr::null());
            assert!(!real.is_null(), "SQLite has no default VFS");
            let mut shim = *real;
            shim.szOsFile += FILE_BYTES;
            shim.zName = NAME.as_ptr();
            shim.pNext = std::ptr::null_mut();
            shim.xOpen = Some(open);
            let outcome = ffi::sqlite3_vfs_register(Box::into_raw(Box::new(shim)), 0);
            assert_eq!(outcome, ffi::SQLITE_OK, "the VFS was not registered");
            Registered { real }
        }
    });
}

/// Makes the `n`-th operation from now on, counted from 1, fail; with `lasting`, all later ones
/// too.
pub fn fail_at(n: u32, lasting: bool) {
    LASTING.store(lasting, Ordering::SeqCst);
    BROKEN.store(false, Ordering::SeqCst);
    FAILED.store(0, Ordering::SeqCst);
    LEFT.store(i64::from(n), Ordering::SeqCst);
}

/// Whether failing writes return the error of a full disk (`SQLITE_FULL`) or of a broken one
/// (`SQLITE_IOERR_WRITE`).
pub fn fail_as_full(full: bool) {
    FULL.store(full, Ordering::SeqCst);
}

/// Clears the plan; returns the number of operations that failed under it.
pub fn lift() -> u64 {
    LEFT.store(0, Ordering::SeqCst);
    BROKEN.store(false, Ordering::SeqCst);
    FAILED.load(Ordering::SeqCst)
}

/// Whether the current operation fails.
fn fails() -> bool {
    let now = LEFT.fetch_sub(1, Ordering::SeqCst) == 1;
    if now && LASTING.load(Ordering::SeqCst) {
        BROKEN.store(true, Ordering::SeqCst);
    }
    let fails = now || BROKEN.load(Ordering::SeqCst);
    FAILED.fetch_add(u64::from(fails), Ordering::SeqCst);
    fails
}

/// The file object that SQLite sees. The real one follows it in the memory that `szOsFile`
/// requests.
#[repr(C)]
struct File {
    base: ffi::sqlite3_file,
}

/// A multiple of 8, so that the real file is aligned.
const FILE_BYTES: c_int = size_of::<File>().next_multiple_of(8) as c_int;

/// # Safety
/// `file` was opened by [`open`].
unsafe fn real(file: *mut ffi::sqlite3_file) -> *mut ffi::sqlite3_file {
    // SAFETY: SQLite allocated `szOsFile` bytes, enough for this object and the real one
    unsafe { file.byte_add(FILE_BYTES as usize) }
}

unsafe extern "C" fn open(
    _: *mut ffi::sqlite3_vfs,
    name: *const c_char,
    file: *mut ffi::sqlite3_file,
    flags: c_int,
    out: *mut c_int,
) -> c_int {
    // SAFETY: called by SQLite with a file of `szOsFile` bytes, after `register`
    unsafe {
        (*file).pMethods = std::ptr::null();
        let (Some(registered), inner) = (REGISTERED.get(), real(file)) else {
            return ffi::SQLITE_ERROR;
        };
        let Some(open) = (*registered.real).xOpen else { return ffi::SQLITE_ERROR };
        (*inner).pMethods = std::ptr::null();
        let outcome = open(registered.real, name, inner, flags, out);
        if !(*inner).pMethods.is_null() {
            (*file).pMethods = &raw const METHODS;
        }
        outcome
    }
}

/// Calls the method of this name on the real file.
macro_rules! pass {
    ($file:expr, $method:ident $(, $argument:expr)*) => {{
        // SAFETY: SQLite passes a file that `open` opened, and the arguments that the real method
        // takes
        unsafe {
            let inner = real($file);
            match (*(*inner).pMethods).$method {
                Some(method) => method(inner $(, $argument)*),
                None => ffi::SQLITE_ERROR,
            }
        }
    }};
}

unsafe extern "C" fn close(file: *mut ffi::sqlite3_file) -> c_int {
    pass!(file, xClose)
}

unsafe extern "C" fn read(
    file: *mut ffi::sqlite3_file,
    to: *mut c_void,
    bytes: c_int,
    at: i64,
) -> c_int {
    pass!(file, xRead, to, bytes, at)
}

unsafe extern "C" fn write(
    file: *mut ffi::sqlite3_file,
    from: *const c_void,
    bytes: c_int,
    at: i64,
) -> c_int {
    if fails() {
        if FULL.load(Ordering::SeqCst) { ffi::SQLITE_FULL } else { ffi::SQLITE_IOERR_WRITE }
    } else {
        pass!(file, xWrite, from, bytes, at)
    }
}

unsafe extern "C" fn truncate(file: *mut ffi::sqlite3_file, bytes: i64) -> c_int {
    if fails() { ffi::SQLITE_IOERR_TRUNCATE } else { pass!(file, xTruncate, bytes) }
}

unsafe extern "C" fn sync(file: *mut ffi::sqlite3_file, flags: c_int) -> c_int {
    if fails() { ffi::SQLITE_IOERR_FSYNC } else { pass!(file, xSync, flags) }
}

unsafe extern "C" fn file_size(file: *mut ffi::sqlite3_file, to: *mut i64) -> c_int {
    pass!(file, xFileSize, to)
}

unsafe extern "C" fn lock(file: *mut ffi::sqlite3_file, level: c_int) -> c_int {
    pass!(file, xLock, level)
}

unsafe extern "C" fn unlock(file: *mut ffi::sqlite3_file, level: c_int) -> c_int {
    pass!(file, xUnlock, level)
}

unsafe extern "C" fn check_reserved_lock(file: *mut ffi::sqlite3_file, to: *mut c_int) -> c_int {
    pass!(file, xCheckReservedLock, to)
}

unsafe extern "C" fn file_control(
    file: *mut ffi::sqlite3_file,
    operation: c_int,
    argument: *mut c_void,
) -> c_int {
    pass!(file, xFileControl, operation, argument)
}

unsafe extern "C" fn sector_size(file: *mut ffi::sqlite3_file) -> c_int {
    pass!(file, xSectorSize)
}

unsafe extern "C" fn device_characteristics(file: *mut ffi::sqlite3_file) -> c_int {
    pass!(file, xDeviceCharacteristics)
}

unsafe extern "C" fn shm_map(
    file: *mut ffi::sqlite3_file,
    page: c_int,
    bytes: c_int,
    extend: c_int,
    to: *mut *mut c_void,
) -> c_int {
    pass!(file, xShmMap, page, bytes, extend, to)
}

unsafe extern "C" fn shm_lock(
    file: *mut ffi::sqlite3_file,
    at: c_int,
    count: c_int,
    flags: c_int,
) -> c_int {
    pass!(file, xShmLock, at, count, flags)
}

unsafe extern "C" fn shm_barrier(file: *mut ffi::sqlite3_file) {
    // SAFETY: as in `pass!`
    unsafe {
        let inner = real(file);
        if let Some(barrier) = (*(*inner).pMethods).xShmBarrier {
            barrier(inner);
        }
    }
}

unsafe extern "C" fn shm_unmap(file: *mut ffi::sqlite3_file, delete: c_int) -> c_int {
    pass!(file, xShmUnmap, delete)
}

/// Version 2: shared memory for the log, no memory-mapped reads.
static METHODS: ffi::sqlite3_io_methods = ffi::sqlite3_io_methods {
    iVersion: 2,
    xClose: Some(close),
    xRead: Some(read),
    xWrite: Some(write),
    xTruncate: Some(truncate),
    xSync: Some(sync),
    xFileSize: Some(file_size),
    xLock: Some(lock),
    xUnlock: Some(unlock),
    xCheckReservedLock: Some(check_reserved_lock),
    xFileControl: Some(file_control),
    xSectorSize: Some(sector_size),
    xDeviceCharacteristics: Some(device_characteristics),
    xShmMap: Some(shm_map),
    xShmLock: Some(shm_lock),
    xShmBarrier: Some(shm_barrier),
    xShmUnmap: Some(shm_unmap),
    xFetch: None,
    xUnfetch: None,
};
