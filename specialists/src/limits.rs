//! Checks of numbers in a specialist's file.

/// # Errors
/// `value` is outside [`low`, `high`].
pub(crate) fn within(key: &str, value: f64, low: f64, high: f64) -> Result<(), String> {
    if (low..=high).contains(&value) {
        Ok(())
    } else {
        Err(format!("{key} is {value}, expected a number from {low} to {high}"))
    }
}

/// # Errors
/// `value` is outside (`low`, `high`].
pub(crate) fn above(key: &str, value: f64, low: f64, high: f64) -> Result<(), String> {
    if value > low && value <= high {
        Ok(())
    } else {
        Err(format!("{key} is {value}, expected a number above {low}, at most {high}"))
    }
}

/// # Errors
/// `value` is outside 1 to `most`.
pub(crate) fn count(key: &str, value: usize, most: usize) -> Result<usize, String> {
    if (1..=most).contains(&value) {
        Ok(value)
    } else {
        Err(format!("{key} is {value}, expected a whole number from 1 to {most}"))
    }
}
