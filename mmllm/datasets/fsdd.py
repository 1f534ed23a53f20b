"""Free Spoken Digit Dataset (Jackson et al., github.com/Jakobovski/free-spoken-digit-dataset): one digit a file."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mmllm.datasets.base import Dataset
from mmllm.errors import MmllmError, SampleError
from mmllm.types import Message, Sample

QUESTION = "what digit is it?"
WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
"""What is said in each recording, for a stage with ``distill``."""
TEST_TAKES = range(5)
"""The official test part: takes 0 to 4 of every speaker and digit; the others are for training."""
_NAME = re.compile(r"(\d)_([a-z]+)_(\d+)\.wav")


@dataclass(frozen=True)
class Recording:
    """One file ``{digit}_{speaker}_{take}.wav``."""

    file: Path
    digit: int
    speaker: str
    take: int


class Fsdd(Dataset):
    """A spoken digit (8 kHz WAV) and a question about it; reads ``path``/recordings/{digit}_{speaker}_{take}.wav.

    ``takes``: numbers of the recordings to use, all but the test part 0..4 unless given. ``speakers``: their names, all
    unless given. ``question`` is what the user asks; the answer is the digit's figure. ``varied``: each recording comes
    so many times, the first time as it is, then in changed versions (see :func:`changed`), the same in every epoch.
    """

    def __init__(
        self,
        path: str,
        takes: Sequence[int] | None = None,
        speakers: Sequence[str] | None = None,
        question: str = QUESTION,
        varied: int = 1,
    ) -> None:
        if varied < 1:
            raise MmllmError(f"fsdd varied: {varied} must be at least 1 (times each recording comes)")
        self.name = "fsdd"
        self._varied = varied
        found = recordings(Path(path))
        train = sorted({one.take for one in found} - set(TEST_TAKES))
        self._rows = chosen(found, train if takes is None else takes, speakers)
        self._question = question

    def __len__(self) -> int:
        """Number of recordings, each counted ``varied`` times."""
        return self._varied * len(self._rows)

    def __getitem__(self, index: int) -> Sample:
        """Recording ``index`` as a conversation, named ``fsdd:<file without ending>``, a changed one with ``+<n>``."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        version, number = divmod(index, len(self._rows))
        row = self._rows[number]
        messages = (Message("user", f"<audio>\n{self._question}"), Message("assistant", str(row.digit)))
        name = f"{self.name}:{row.file.stem}"
        texts = {"audio": (WORDS[row.digit],)}
        if not version:
            return Sample(name, messages, {"audio": (row.file,)}, texts)
        return Sample(f"{name}+{version}", messages, {"audio": (changed(row.file, version),)}, texts)


def changed(file: Path, version: int) -> bytes:
    """A WAV of the recording played up to a fifth faster or slower, so higher or lower (Ko et al. 2015), at another
    level, with up to a tenth of a second of silence on either side, in noise 15 to 45 dB below it.

    The same for the same file and version. SampleError where the file cannot be read.
    """
    import numpy as np
    import soundfile
    import soxr

    try:
        samples, rate = soundfile.read(file, dtype="float32", always_2d=True)
    except soundfile.LibsndfileError as error:
        raise SampleError(f"fsdd: {file} cannot be read: {error.error_string}") from error
    # from the name, not the path: the same versions wherever the folder lies
    rng = np.random.default_rng([version, *file.stem.encode()])
    # as if it had been recorded at another rate: length and pitch change together
    sound = soxr.resample(samples.mean(axis=1), rate * np.exp(rng.uniform(-0.2, 0.2)), rate)
    sound = np.pad(sound, tuple(int(n) for n in rng.uniform(0, 0.1 * rate, 2)))
    level = np.sqrt(np.mean(sound**2))
    sound = sound + rng.normal(size=len(sound)) * level * 10 ** (-rng.uniform(15, 45) / 20)
    buffer = io.BytesIO()
    loud = (sound * 10 ** (rng.uniform(-12, 6) / 20)).clip(-1, 1)
    soundfile.write(buffer, loud, rate, format="WAV", subtype="PCM_16")
    return buffer.getvalue()


def recordings(path: Path) -> list[Recording]:
    """All recordings of the repository's folder, in the order of their names.

    Raises:
        MmllmError: the folder is missing, empty, or holds a WAV file with another kind of name.
    """
    folder = path / "recordings"
    files = sorted(folder.glob("*.wav"))
    if not files:
        raise MmllmError(
            f"there is no {folder} with WAV files in it; fetch github.com/Jakobovski/free-spoken-digit-dataset and "
            "give path its folder"
        )
    found = []
    for file in files:
        match = _NAME.fullmatch(file.name)
        if match is None:
            raise MmllmError(f"{file} is not named {{digit}}_{{speaker}}_{{take}}.wav")
        found.append(Recording(file, int(match[1]), match[2], int(match[3])))
    return found


def chosen(found: Sequence[Recording], takes: Sequence[int], speakers: Sequence[str] | None) -> list[Recording]:
    """The recordings of these takes and speakers; MmllmError where one of them does not exist."""
    for what, wanted, there in (
        ("take", set(takes), {one.take for one in found}),
        ("speaker", set(speakers or ()), {one.speaker for one in found}),
    ):
        unknown = sorted(map(str, wanted - there))
        if unknown:
            known = ", ".join(map(str, sorted(there)))
            raise MmllmError(f"fsdd has no {what} {', '.join(unknown)}; there are {known}")
    rows = [one for one in found if one.take in takes and (speakers is None or one.speaker in speakers)]
    if not rows:
        raise MmllmError(f"fsdd has no recording of takes {list(takes)} by the speakers asked for")
    return rows
