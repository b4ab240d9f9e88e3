"""The stream that a sampler draws from, under the name that samplers for earlier versions import."""

from budgetrun.training.views import Stream as Stream
