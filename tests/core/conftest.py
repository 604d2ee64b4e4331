"""Properties are checked for what they say, not for how fast a busy machine is."""

from hypothesis import HealthCheck, settings

settings.register_profile("gpuctl", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("gpuctl")
