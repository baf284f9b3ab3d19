"""Single events: from the ring to lines and to the journal, and back from there.

Here only the verb's name, so that naming it in the help costs nothing.
"""

NAME = "events"
SUMMARY = "prints the events in the journal, and what comes"
