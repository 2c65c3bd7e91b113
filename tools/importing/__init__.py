"""`foyer import`: a folder of another system's exports, loaded through the gateway's API as a mapping file tells.

mapping.py     the mapping file, checked as a whole
expressions.py how a field is made from the cells of a row; dates, times, amounts
reading.py     CSV and Excel files, bounded
planning.py    mapping and files → what will be asked of the API, and what is wrong with which row
sections.py    the same for bookings and payments
client.py      the gateway over HTTP: repeated safely, never faster than it allows
journal.py     what is done already, so that an import can be taken up again
runner.py      a plan → requests, many at a time
telling.py     progress, summary, list of refused rows
"""
