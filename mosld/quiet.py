"""Libraries' own chatter: progress bars for every loaded tensor and warnings that no user can act on."""

import warnings


def silence_libraries() -> None:
    """Leave errors, and what mosld itself says."""
    import transformers

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"transformers|peft|accelerate")
