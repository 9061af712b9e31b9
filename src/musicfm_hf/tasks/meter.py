"""
Meters and tempi of beats. A beat is what the annotation counts, and a meter is the number of beats in a bar: 6/8 is 6
if eighths are counted, and 2 if dotted quarters are.
"""

METERS = (2, 3, 4, 5, 6, 7)  # that models learn and songs are composed in
