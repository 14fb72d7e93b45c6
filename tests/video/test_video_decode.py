from __future__ import annotations

import gc
import os
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import make_videos as make
import numpy as np
import pytest
import torch
from conftest import FRAMES, real_clip
from PIL import Image
from test_video_source import FakeInput

from aot.config import SamplingConfig
from aot.errors import ConfigError, VideoError
from aot.types import VideoFrames
from aot.video import decode, decode_pyav, plan_frames, probe
