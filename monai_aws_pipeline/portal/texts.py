"""Every text of the pages, in each of their languages, in one table; the error that is said by one; and which language a browser wants.

Here belong words alone. What the host says of a study (cause and remedy, in its record) is shown as it was written, in English.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from monai_aws_pipeline.errors import NamedError

LANGUAGES: Final = ("en", "es")
NAMES: Final = {"en": "English", "es": "Español"}

TEXTS: Final[Mapping[str, tuple[str, str]]] = {
    # ------------------------------------------------------------------------------------------------------------------ the frame
    "portal": ("Studies", "Estudios"),
    "skip": ("Skip to the content", "Ir al contenido"),
    "language": ("Language", "Idioma"),
    # ---------------------------------------------------------------------------------------------------------------- drop a study
    "drop_title": ("Send a study", "Enviar un estudio"),
    "drop_here": ("Drop a folder of DICOM files, or one zip, here", "Suelte aquí una carpeta de archivos DICOM, o un zip"),
    "choose_folder": ("Choose a folder", "Elegir una carpeta"),
    "choose_files": ("Choose files or a zip", "Elegir archivos o un zip"),
    "privacy": (
        "It is zipped in this browser and goes straight to the bucket. File names stay here; what the files hold goes as it is.",
        "Se comprime en este navegador y va directamente al depósito. Los nombres de archivo no salen de aquí; su contenido va tal cual.",
    ),
    "needs_script": ("Sending a study needs JavaScript.", "Para enviar un estudio se necesita JavaScript."),
    "checking": ("Looking at {done} of {all} files", "Examinando {done} de {all} archivos"),
    "counted": (
        "{instances} files look like DICOM. {others} others stay here.",
        "{instances} archivos parecen DICOM. Otros {others} se quedan aquí.",
    ),
    "counted_zip": ("A zip of {size}, sent as it is.", "Un zip de {size}, enviado tal cual."),
    "sending": ("{done} of {all} sent", "{done} de {all} enviados"),
    "resuming": (
        "Part of it is there already: going on where it stopped.",
        "Una parte ya está allí: se continúa donde se detuvo.",
    ),
    "waiting_line": ("The line is down. Trying again …", "La conexión se ha perdido. Se intenta de nuevo …"),
    "cancel": ("Cancel", "Cancelar"),
    "cancelled": ("Cancelled. Nothing of it is kept.", "Cancelado. No se guarda nada."),
    "complete": ("Sent. Going to its answer …", "Enviado. Pasando a su respuesta …"),
    # ------------------------------------------------------------------------------------------------ why an upload is refused
    "nothing_chosen": (
        "There is no file in it. Choose the folder that holds the study.",
        "No contiene archivos. Elija la carpeta del estudio.",
    ),
    "no_dicom": (
        "None of these {all} files is DICOM, so nothing was sent. Choose the folder, or the zip, that the study was exported to.",
        "Ninguno de estos {all} archivos es DICOM, así que no se envió nada. Elija la carpeta o el zip al que se exportó el estudio.",
    ),
    "archive_inside": (
        "There is an archive among these files, which may hold a part of the study. Send one zip alone, or the unpacked files.",
        "Uno de ellos es un archivo comprimido que puede contener parte del estudio. Envíe un solo zip, o los archivos descomprimidos.",
    ),
    "unreadable": (
        "A file could not be read: it may have changed, or is on a drive that is gone. Choose it again.",
        "No se pudo leer un archivo: puede haber cambiado, o su unidad ya no está. Elíjalo otra vez.",
    ),
    "upload_empty": ("It holds no bytes. Export the study again.", "No contiene datos. Exporte el estudio otra vez."),
    "upload_too_large": (
        "It is larger than this deployment takes ({most} MiB). Send one study at a time, or ask for MONAI_AWS_UPLOAD_MAX_MIB to be raised.",
        "Supera lo que admite este despliegue ({most} MiB). Envíe un estudio a la vez, o pida que se aumente MONAI_AWS_UPLOAD_MAX_MIB.",
    ),
    "too_many_uploads": (
        "Too many uploads are under way. Try again in some minutes.",
        "Hay demasiados envíos en curso. Inténtelo de nuevo dentro de unos minutos.",
    ),
    "no_such_upload": (
        "This upload is not known any more (they are kept for a day). Send it again.",
        "Este envío ya no se conoce (se guardan un día). Envíelo de nuevo.",
    ),
    "no_such_part": ("The upload has no such part.", "El envío no tiene esa parte."),
    "parts_missing": (
        "Parts of the upload are missing or of another size. They are sent again.",
        "Faltan partes del envío o tienen otro tamaño. Se envían de nuevo.",
    ),
    "upload_complete": ("The upload is complete and has become a job.", "El envío está completo y ya es un trabajo."),
    "not_understood": ("The request is not understood.", "No se entiende la petición."),
    "not_there": ("There is nothing at this address.", "No hay nada en esta dirección."),
    "other_origin": (
        "The request did not come from a page of this portal. Load the page again.",
        "La petición no vino de una página de este portal. Vuelva a cargar la página.",
    ),
    "unknown_user": ("You are not logged in any more. Load the page again.", "Su sesión ha terminado. Vuelva a cargar la página."),
    "too_often": ("Too many requests. Wait some seconds.", "Demasiadas peticiones. Espere unos segundos."),
    "s3_refused": (
        "S3 did not take it ({code}). Where a login has expired, whoever runs these pages logs in again; monai-aws doctor says more.",
        "S3 no lo aceptó ({code}). Si ha caducado una sesión, quien administra estas páginas la renueva; monai-aws doctor dice más.",
    ),
    "line_lost": (
        "The bucket cannot be reached from this browser. If the line is up, the bucket does not allow this page's address "
        "(PortalOrigin of the stack). Drop the same files again to go on.",
        "Este navegador no llega al depósito. Si hay conexión, el depósito no admite la dirección de esta página "
        "(PortalOrigin de la pila). Suelte los mismos archivos para continuar.",
    ),
    "internal": (
        "That failed here, and not for what you did. Try again.",
        "Algo falló aquí, y no por lo que usted hizo. Inténtelo de nuevo.",
    ),
    # ------------------------------------------------------------------------------------------- what there is instead of a page
    "title_400": ("Not understood", "No se entiende"),
    "title_401": ("Not logged in", "Sin sesión"),
    "title_403": ("From elsewhere", "De otro sitio"),
    "title_404": ("Not there", "No está"),
    "title_405": ("Not so", "Así no"),
    "title_421": ("Not at this address", "No en esta dirección"),
    "title_429": ("Too often", "Demasiado a menudo"),
    "title_500": ("That failed", "Algo ha fallado"),
    "title_502": ("Not readable", "No se puede leer"),
    "no_such_page": (
        "There is no such page. Links to a study's pages are on its page in Dagster, and among the recent studies.",
        "No existe esa página. Los enlaces a las páginas de un estudio están en la suya de Dagster, y entre los estudios recientes.",
    ),
    "read_with_get": ("These pages are read with GET.", "Estas páginas se leen con GET."),
    "other_name": (
        "This portal does not answer to the name in your browser's address bar. Open it at {address}/.",
        "Este portal no responde al nombre que hay en la barra de direcciones. Ábralo en {address}/.",
    ),
    "s3_gave_nothing": (
        "S3 did not give it ({code}). Where a login has expired, whoever runs these pages logs in again; monai-aws doctor says what else "
        "is missing.",
        "S3 no lo entregó ({code}). Si ha caducado una sesión, quien administra estas páginas la renueva; monai-aws doctor dice qué más "
        "falta.",
    ),
    "record_unreadable": (
        "Something of it is in the bucket, and cannot be read: {why}",
        "Algo de ello está en el depósito y no se puede leer: {why}",
    ),
    "preview_unreadable": ("The picture cannot be shown: {why}", "La imagen no se puede mostrar: {why}"),
    "not_there_because": ("{why}", "{why}"),
    "no_such_answer": (
        "There is no such answer in this bucket, or it has expired. Look at the study's partition in Dagster.",
        "No existe esa respuesta en el depósito, o ha caducado. Mire la partición del estudio en Dagster.",
    ),
    "no_answers": (
        "There is no answer to this study in the bucket, or it has expired. Look at its partition in Dagster.",
        "No hay respuesta a este estudio en el depósito, o ha caducado. Mire su partición en Dagster.",
    ),
    "no_such_file": (
        "The record of this answer names no such file. Its page lists the files that it has.",
        "La ficha de esta respuesta no nombra ese archivo. Su página enumera los que tiene.",
    ),
    "original_expired": (
        "The original is not in the bucket any more (MONAI_AWS_ORIGINALS_EXPIRE_DAYS), or was never kept.",
        "El original ya no está en el depósito (MONAI_AWS_ORIGINALS_EXPIRE_DAYS), o nunca se guardó.",
    ),
    "no_preview": ("This answer has no preview: there was nothing to draw.", "Esta respuesta no tiene imagen: no había nada que dibujar."),
    "preview_gone": ("The preview is not in the bucket any more.", "La imagen ya no está en el depósito."),
    "day_named": ("A day is named like 2026-03-14.", "Un día se escribe como 2026-03-14."),
    "no_day_table": (
        "There is no table of this day. The asset studies_by_day makes it: materialise the day's partition.",
        "No hay tabla de ese día. La hace el activo studies_by_day: materialice la partición del día.",
    ),
    "study_answered": ("This study has been answered.", "Este estudio ya tiene respuesta."),
    "named_by_digits": (
        "A study or job is named by {digits} lower-case hex digits.",
        "Un estudio o un trabajo se escribe con {digits} dígitos hexadecimales en minúscula.",
    ),
    # ----------------------------------------------------------------------------------------------- who the load balancer let in
    "user_unnamed": (
        "The request did not come through the load balancer. Open the portal at its own address, and log in there.",
        "La petición no llegó por el balanceador. Abra el portal en su propia dirección e inicie sesión allí.",
    ),
    "user_of_another": (
        "The request was signed by somebody else than this deployment's load balancer. Open the portal at its own address.",
        "La petición la firmó otro, no el balanceador de este despliegue. Abra el portal en su propia dirección.",
    ),
    "user_over": ("Your login is over. Load the page again.", "Su sesión ha caducado. Vuelva a cargar la página."),
    "user_key": (
        "The key that the load balancer's signature names is not to be had from AWS. Load the page again in a minute.",
        "AWS no entrega la clave que nombra la firma del balanceador. Vuelva a cargar la página dentro de un minuto.",
    ),
    "user_unsigned": (
        "The request has no signature of the load balancer, or it is over. Open the portal at its own address, and log in there.",
        "La petición no lleva la firma del balanceador, o ha caducado. Abra el portal en su propia dirección e inicie sesión allí.",
    ),
    # ------------------------------------------------------------------------------------------------------------- live states
    "follow_title": ("Your study", "Su estudio"),
    "state_unknown": ("Looking for it …", "Buscándolo …"),
    "state_queued": ("Queued", "En cola"),
    "state_starting": ("Host starting", "Máquina arrancando"),
    "state_fetching": ("Fetching", "Recibiendo"),
    "state_running": ("Running", "Calculando"),
    "state_publishing": ("Publishing", "Publicando"),
    "state_done": ("Done", "Listo"),
    "state_refused": ("Not answered", "Sin respuesta"),
    "about_queued": ("It waits for a host. None is before it.", "Espera una máquina. No hay ninguno por delante."),
    "about_behind": ("It waits for a host. At most {before} before it.", "Espera una máquina. Como mucho {before} por delante."),
    "about_starting": (
        "A machine is being started for it; that takes a minute or two.",
        "Se está arrancando una máquina; tarda uno o dos minutos.",
    ),
    "about_fetching": ("It is fetched and checked.", "Se recibe y se comprueba."),
    "about_waiting": ("It is fetched and waits for its turn.", "Se ha recibido y espera su turno."),
    "about_pulling": ("The host pulls the application for it.", "La máquina descarga la aplicación."),
    "about_inferring": ("The application is at work on it.", "La aplicación trabaja en él."),
    "about_publishing": ("Its outputs are judged and stored.", "Se revisan y guardan sus resultados."),
    "about_archiving": ("It is answered, and goes to the archive.", "Tiene respuesta y pasa al archivo."),
    "about_done": ("Every study of this upload is answered.", "Todos los estudios de este envío tienen respuesta."),
    "about_refused": ("Why, and what to do:", "Por qué, y qué hacer:"),
    "open_result": ("Open the result", "Abrir el resultado"),
    "open_why": ("All that is known of it", "Todo lo que se sabe de él"),
    "follow_line": (
        "The portal does not answer at the moment. Asking again …",
        "El portal no responde en este momento. Se pregunta de nuevo …",
    ),
    "leave_page": (
        "You may close this page: the study goes on, and is among the recent ones once it has ended.",
        "Puede cerrar esta página: el estudio sigue, y estará entre los recientes cuando termine.",
    ),
    "send_another": ("Send another study", "Enviar otro estudio"),
    "job": ("Job", "Trabajo"),
    # ---------------------------------------------------------------------------------------------------------- recent studies
    "recent_title": ("Recent studies", "Estudios recientes"),
    "recent_none": ("No study has ended in the last {days} days.", "Ningún estudio ha terminado en los últimos {days} días."),
    "recent_loading": ("Looking for them …", "Buscándolos …"),
    "recent_failed": ("They cannot be read at the moment: {code}.", "No se pueden leer en este momento: {code}."),
    "search": ("Pseudonym, or how it begins", "Seudónimo, o su comienzo"),
    "search_button": ("Search", "Buscar"),
    "search_nothing": ("No answered study begins so.", "Ningún estudio con respuesta empieza así."),
    "search_what": (
        "A pseudonym is 16 hex digits (0-9, a-f); four of them are enough to search.",
        "Un seudónimo son 16 dígitos hexadecimales (0-9, a-f); bastan cuatro para buscar.",
    ),
    "search_found": ("Answered studies that begin with {beginning}", "Estudios con respuesta que empiezan por {beginning}"),
    "column_at": ("ended", "terminado"),
    "column_study": ("study", "estudio"),
    "column_state": ("state", "estado"),
    "column_seconds": ("seconds", "segundos"),
    "of_no_study": ("(upload)", "(envío)"),
    "succeeded": ("answered", "con respuesta"),
    "failed": ("failed", "fallido"),
    "quarantined": ("refused", "rechazado"),
    "try_again": ("Try again", "Intentar de nuevo"),
    "asking_again": ("Asking …", "Pidiendo …"),
    "again_unknown": (
        "Nothing was read of it that names a study, so asking again would end the same: mend what is said here, and send it again.",
        "No se leyó nada que identifique un estudio, y pedirlo de nuevo acabaría igual: corrija lo que se dice aquí y envíelo otra vez.",
    ),
    "send_again": ("Send it again", "Enviarlo otra vez"),
    "again_refused": (
        "It cannot be asked for again: {why}",
        "No se puede pedir de nuevo: {why}",
    ),
    # ---------------------------------------------------------------------------------------------------- the pages of a study
    "study": ("Study {study}", "Estudio {study}"),
    "upload_of_job": ("Upload of job {job}", "Envío del trabajo {job}"),
    "ended_at": ("at", "a las"),
    "day_title": ("Studies of", "Estudios del"),
    "day_results": (
        "{all} results, the newest first, as {key} has them. Times are UTC.",
        "{all} resultados, primero el más reciente, según {key}. Horas en UTC.",
    ),
    "day_time": ("time", "hora"),
    "day_study": ("study", "estudio"),
    "day_end": ("end", "fin"),
    "day_unknown": ("unknown", "desconocido"),
    "all_answers": ("all answers to this study", "todas las respuestas a este estudio"),
    "said_last": ("The application said last:", "Lo último que dijo la aplicación:"),
    "picture": ("The source with its segmentation overlaid", "El original con su segmentación superpuesta"),
    "newest_answer": ("The newest answer", "La respuesta más reciente"),
    "over_time": ("{label} over time", "{label} a lo largo del tiempo"),
    "measurements": ("Measurements", "Mediciones"),
    "segment": ("segment", "segmento"),
    "volume": ("volume, ml", "volumen, ml"),
    "files": ("Files", "Archivos"),
    "the_log": ("the application's log", "el registro de la aplicación"),
    "the_record": ("the record", "la ficha del resultado"),
    "in_console": ("its folder in the S3 console", "su carpeta en la consola de S3"),
    "lineage": ("its lineage in Dagster", "su linaje en Dagster"),
    "file": ("file", "archivo"),
    "kind": ("kind", "tipo"),
    "bytes": ("bytes", "bytes"),
    "the_original": ("the original, as it was uploaded", "el original, tal como se envió"),
    "original_gone": ("The original is not in the bucket any more.", "El original ya no está en el depósito."),
    "files_open": (
        "Files open with the credentials that these pages run with, at addresses that end after five minutes. "
        "The original is a patient's study as it was uploaded, with everything in it that identifies them.",
        "Los archivos se abren con las credenciales de estas páginas, en direcciones que caducan a los cinco minutos. "
        "El original es el estudio de un paciente tal como se envió, con todo lo que lo identifica.",
    ),
    "answers": ("Answers, the newest first", "Respuestas, la más reciente primero"),
    "answered_at": ("answered", "respondido"),
    "model": ("model", "modelo"),
    "commit": ("commit", "commit"),
    "map_section": ("MAP", "MAP"),
    "input_section": ("Input", "Entrada"),
    "run_section": ("Run", "Ejecución"),
    "fact_version": ("version", "versión"),
    "fact_digest": ("digest", "digest"),
    "fact_image": ("image", "imagen"),
    "fact_model": ("model (SHA-256)", "modelo (SHA-256)"),
    "fact_commit": ("source commit", "commit del código"),
    "fact_sdk": ("MONAI Deploy SDK", "MONAI Deploy SDK"),
    "fact_hosting": ("hosting", "alojamiento"),
    "fact_modalities": ("modalities", "modalidades"),
    "fact_images": ("images", "imágenes"),
    "fact_bytes": ("bytes as uploaded", "bytes enviados"),
    "fact_series": ("series", "series"),
    "fact_passed_over": ("passed over", "no tenidos en cuenta"),
    "fact_repairs": ("evened out", "igualado"),
    "fact_job": ("job", "trabajo"),
    "fact_folder": ("folder", "carpeta"),
    "fact_host": ("host", "máquina"),
    "fact_seconds": ("seconds", "segundos"),
    "fact_cost": ("cost", "coste"),
    "fact_memory": ("peak memory", "memoria máxima"),
    "phase_queued": ("queued", "en cola"),
    "phase_boot": ("boot", "arranque"),
    "phase_download": ("download", "recepción"),
    "phase_waiting": ("waiting", "espera"),
    "phase_pull": ("pull", "descarga"),
    "phase_inference": ("inference", "cálculo"),
    "phase_upload": ("upload", "publicación"),
    "phase_total": ("total", "total"),
    "fact_request": ("asked for by a re-run with", "pedido de nuevo con"),
    # ------------------------------------------------------------------------------------------------------------ viewer and 3D
    "open_viewer": ("Viewer", "Visor"),
    "open_volume": ("3D", "3D"),
    "volume_title": ("Study {study} in 3D", "Estudio {study} en 3D"),
    "volume_loading": ("Making the volume …", "Preparando el volumen …"),
    "volume_what": ("The images as a volume, with the segmentation", "Las imágenes como volumen, con la segmentación"),
    "volume_images": ("images", "imágenes"),
    "volume_mask": ("segmentation", "segmentación"),
    "volume_mesh": ("surface", "superficie"),
    "volume_answer": ("all of this answer", "todo sobre esta respuesta"),
    # ------------------------------------------------------------------------------------------------- why a study is not shown
    "view_title": ("Not shown", "No se muestra"),
    "view_not_answered": (
        "This upload was not answered, so there is nothing to lay over it. Its page says why.",
        "Este envío no tiene respuesta, así que no hay nada que superponer. Su página dice por qué.",
    ),
    "view_nothing": (
        "Nothing of this study can be shown: neither an image nor a segmentation of it is there.",
        "Nada de este estudio se puede mostrar: no hay ni imágenes ni segmentación.",
    ),
    "view_too_many": (
        "The study has more than {most} images, which is more than is shown here.",
        "El estudio tiene más de {most} imágenes, más de las que se muestran aquí.",
    ),
    "view_busy": (
        "The portal is reading other studies. Reload the page in a minute.",
        "El portal está leyendo otros estudios. Recargue la página dentro de un minuto.",
    ),
    "view_full": (
        "The portal shows as many studies as it has room for. Try again in a while.",
        "El portal ya muestra tantos estudios como puede. Inténtelo de nuevo dentro de un rato.",
    ),
    "view_disk_full": (
        "The portal's disk has no room for this study. Try it again later.",
        "El disco del portal no tiene espacio para este estudio. Inténtelo de nuevo más tarde.",
    ),
    "view_results_too_large": (
        "The results of this answer are larger than is shown here. Its page has them as downloads.",
        "Los resultados de esta respuesta superan lo que se muestra aquí. Su página los tiene como descargas.",
    ),
    "view_result_unreadable": (
        "A result in the bucket is refused: {why}",
        "Un resultado del depósito se rechaza: {why}",
    ),
    "view_original_gone": (
        "The original of this study is not in the bucket any more (MONAI_AWS_ORIGINALS_EXPIRE_DAYS), and no archive has it. "
        "Send the study again.",
        "El original de este estudio ya no está en el depósito (MONAI_AWS_ORIGINALS_EXPIRE_DAYS), y ningún archivo lo tiene. "
        "Envíe el estudio otra vez.",
    ),
    "view_original_refused": (
        "The original in the bucket is refused: {why}",
        "El original del depósito se rechaza: {why}",
    ),
    "view_archive_failed": (
        "The archive did not give a part of this study: {why}",
        "El archivo no entregó una parte de este estudio: {why}",
    ),
    "view_which_study": (
        "The upload holds several studies, and no result says which of them this one is.",
        "El envío contiene varios estudios, y ningún resultado dice cuál de ellos es este.",
    ),
    "view_file_gone": ("A file of this answer is not in the bucket any more.", "Un archivo de esta respuesta ya no está en el depósito."),
    "view_bucket_failed": (
        "The bucket did not give a file of this study: {why}",
        "El depósito no entregó un archivo de este estudio: {why}",
    ),
    "volume_no_images": ("This study has no images.", "Este estudio no tiene imágenes."),
    "volume_no_place": (
        "The images do not say where they lie, so they make no volume. The viewer shows them one by one.",
        "Las imágenes no dicen dónde están, así que no forman un volumen. El visor las muestra una a una.",
    ),
    "volume_uneven": (
        "The images are unevenly spaced, so they make no volume. The viewer shows them one by one.",
        "Las imágenes no están a distancias iguales, así que no forman un volumen. El visor las muestra una a una.",
    ),
    "volume_colour": (
        "The images are in colour, so they make no volume. The viewer shows them one by one.",
        "Las imágenes son en color, así que no forman un volumen. El visor las muestra una a una.",
    ),
    "volume_too_large": (
        "The study has more planes than the 3D page draws. The viewer shows them one by one.",
        "El estudio tiene más planos de los que dibuja la página 3D. El visor los muestra uno a uno.",
    ),
    "volume_compressed": (
        "The images are compressed in a way that the portal does not read. The viewer may.",
        "Las imágenes están comprimidas de un modo que el portal no lee. Quizá el visor pueda.",
    ),
    "volume_mask_compressed": (
        "The segmentation is compressed in a way that the portal does not read. The viewer may.",
        "La segmentación está comprimida de un modo que el portal no lee. Quizá el visor pueda.",
    ),
    "surface_too_large": (
        "The surface is larger than is drawn here. The page of the answer has it as a download.",
        "La superficie es mayor de lo que se dibuja aquí. La página de la respuesta la tiene como descarga.",
    ),
    "surface_unreadable": ("The surface is no STL file that can be read.", "La superficie no es un archivo STL que se pueda leer."),
    "surface_no_numbers": ("The surface has vertices that are no numbers.", "La superficie tiene vértices que no son números."),
    "volume_no_part": ("This answer has no such part.", "Esta respuesta no tiene esa parte."),
    "no_such_viewer": ("There is no such viewer.", "No existe ese visor."),
    "viewer_failed": ("{why} Then open this page again.", "{why} Después, abra de nuevo esta página."),
    "viewer_on_its_way": (
        "{name} is being fetched, which is done once. This page opens when it is there.",
        "Se está descargando {name}, lo que se hace una sola vez. Esta página se abrirá cuando esté.",
    ),
    "count_images": ("{instances} in {series} series, {given} given", "{instances} en {series} series, {given} entregadas"),
}


class TextError(NamedError):
    """An error that a browser is told. ``key``: of the text that says it, or a sentence of its own where no person reads it."""

    def __init__(self, key: str, **values: object) -> None:
        self.key, self.values = key, values
        super().__init__(self.said_in(LANGUAGES[0]))

    def said_in(self, language: str) -> str:
        """It in a language."""
        return TEXTS[self.key][LANGUAGES.index(language)].format(**self.values) if self.key in TEXTS else self.key


def texts_in(language: str) -> dict[str, str]:
    """All texts of one language, by their keys."""
    column = LANGUAGES.index(language)
    return {key: each[column] for key, each in TEXTS.items()}


def language_of(wanted: str, kept: str, accepted: str) -> str:
    """Which language a page is in: asked for in its address, kept in a cookie, or the browser's first that there is."""
    for each in (wanted, kept):
        if each in LANGUAGES:
            return each
    return _first_accepted(accepted)


def _first_accepted(header: str) -> str:
    """Of an Accept-Language header, which anyone may have written: the one of ours with the highest weight."""
    weighed: list[tuple[float, int, str]] = []
    for place, part in enumerate(header[:200].split(",")):
        name, _, weight = part.strip().partition(";")
        language = name.strip().lower().partition("-")[0]
        try:
            value = float(weight.strip().removeprefix("q=") or 1)
        except ValueError:
            value = 0.0
        if language in LANGUAGES and value > 0:
            weighed.append((-value, place, language))
    return min(weighed)[2] if weighed else LANGUAGES[0]
