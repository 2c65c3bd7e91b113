"""Every table of bookings: the metadata that migrations are made from, once all nouns have added theirs."""

from services.bookings import packages_models
from services.bookings.assignments import models as assignments_models
from services.bookings.calendars import models as calendars_models
from services.bookings.classes import models as classes_models
from services.bookings.desk import models as desk_models
from services.bookings.links import models as links_models
from services.bookings.models import metadata
from services.bookings.people import models as people_models
from services.bookings.resources import models as resources_models
from services.bookings.rosters import models as rosters_models
from services.bookings.series import models as series_models
from services.bookings.waiting import models as waiting_models

__all__ = [
    "assignments_models",
    "calendars_models",
    "classes_models",
    "desk_models",
    "links_models",
    "metadata",
    "packages_models",
    "people_models",
    "resources_models",
    "rosters_models",
    "series_models",
    "waiting_models",
]
