"""Music as notes: scores with labels, arrangements, composition, and synthesis of MIDI with soundfonts."""
